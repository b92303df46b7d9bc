#include "launcher/serve/sessions/state.h"

#include <algorithm>
#include <string>

#include "kernels/base/check.h"

namespace duo {
namespace {

template <typename State>
std::string Change(State from, State to) {
  return std::string("a session goes from ") + Name(from) + " to " + Name(to);
}

}  // namespace

const char* Name(Place place) {
  switch (place) {
    case Place::kOpen:
      return "open";
    case Place::kSaving:
      return "saving";
    case Place::kMovedOut:
      return "moved out";
    case Place::kRestoring:
      return "restoring";
  }
  return "";
}

const char* Name(AppendPhase phase) {
  switch (phase) {
    case AppendPhase::kNone:
      return "none";
    case AppendPhase::kUploading:
      return "uploading";
    case AppendPhase::kReading:
      return "reading";
    case AppendPhase::kStopped:
      return "stopped";
    case AppendPhase::kDone:
      return "done";
  }
  return "";
}

SessionState::SessionState(Place first, const StateWatch* watch) : place_(first), watch_(watch) {
  DUO_CHECK_MSG(std::find(kFirstPlaces.begin(), kFirstPlaces.end(), first) != kFirstPlaces.end(), Name(first));
}

void SessionState::To(Place place) {
  DUO_CHECK_MSG(Allowed(place_, place), Change(place_, place));
  DUO_CHECK_MSG(Together(place, append_), Change(place_, place));
  const Place from = place_;
  place_ = place;
  if (watch_ != nullptr && watch_->on_place) watch_->on_place(from, place);
}

void SessionState::To(AppendPhase phase) {
  DUO_CHECK_MSG(Allowed(append_, phase), Change(append_, phase));
  DUO_CHECK_MSG(Together(place_, phase), Change(append_, phase));
  const AppendPhase from = append_;
  append_ = phase;
  if (watch_ != nullptr && watch_->on_append) watch_->on_append(from, phase);
}

void SessionState::UploadTo(AppendPhase phase) {
  DUO_CHECK_MSG(Allowed(upload_, phase) && (phase == AppendPhase::kNone || phase == AppendPhase::kUploading),
                Change(upload_, phase));
  const AppendPhase from = upload_;
  upload_ = phase;
  if (watch_ != nullptr && watch_->on_append) watch_->on_append(from, phase);
}

}  // namespace duo
