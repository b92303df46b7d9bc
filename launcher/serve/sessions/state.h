// A session's state: where its keys and values are, and how far its appends have come. The tables beside the enums say
// which changes there are; everything else is a bug and ends the program.
//
//   place     open <-> saving        its pages are in the cache; a save job reads them
//             open -> moved out      it was idle and all of it is on disk
//             moved out -> restoring -> open    a call on it brings it back
//
//   append    none -> uploading -> reading -> done | stopped
//             stopped -> reading     the client repeats it, or a durable session is open again
//
// A session has one append that is reading, stopped or done, and beside it one that is uploading. Plain values; any
// thread.
#pragma once

#include <array>
#include <cstddef>
#include <functional>

namespace duo {

enum class Place {
  kOpen,       // in the KV cache
  kSaving,     // in the KV cache, and a save job works on it
  kMovedOut,   // in the save directory alone
  kRestoring,  // a restore job fills it
};
inline constexpr std::array kPlaces = {Place::kOpen, Place::kSaving, Place::kMovedOut, Place::kRestoring};

enum class AppendPhase {
  kNone,       // there is no such append
  kUploading,  // its text arrives, or is whole and waits for its turn
  kReading,    // the engine, a save job or a restore job works on it
  kStopped,    // some of its text is read: it is to be repeated, or the session to be rewound
  kDone,
};
inline constexpr std::array kAppendPhases = {AppendPhase::kNone, AppendPhase::kUploading, AppendPhase::kReading,
                                             AppendPhase::kStopped, AppendPhase::kDone};

template <typename State>
struct Step {
  State from, to;
  const char* when;
};

inline constexpr std::array kPlaceSteps = {
    Step<Place>{Place::kOpen, Place::kSaving, "a save or a checkpoint begins"},
    Step<Place>{Place::kSaving, Place::kOpen, "it ends, well or not"},
    Step<Place>{Place::kOpen, Place::kMovedOut, "a save of all of it has just ended, and nobody uses the session"},
    Step<Place>{Place::kMovedOut, Place::kRestoring,
                "a call on it, or the server's start with an append to go on with"},
    Step<Place>{Place::kRestoring, Place::kOpen, "the restore ends well"},
    Step<Place>{Place::kRestoring, Place::kMovedOut, "the restore fails"},
};
// A session begins open (Create, Fork), moved out (found in the store) or restoring (Restore). It may end anywhere.
inline constexpr std::array kFirstPlaces = {Place::kOpen, Place::kMovedOut, Place::kRestoring};

inline constexpr std::array kAppendSteps = {
    Step<AppendPhase>{AppendPhase::kNone, AppendPhase::kUploading, "its first piece"},
    Step<AppendPhase>{
        AppendPhase::kUploading, AppendPhase::kNone,
        "an upload with another id takes its place, or its turn has come and the session has it as its append"},
    Step<AppendPhase>{AppendPhase::kUploading, AppendPhase::kReading, "its text is whole and its turn has come"},
    Step<AppendPhase>{AppendPhase::kReading, AppendPhase::kDone, "all of it is read"},
    Step<AppendPhase>{AppendPhase::kReading, AppendPhase::kStopped, "a cancellation, a drain, an error"},
    Step<AppendPhase>{AppendPhase::kReading, AppendPhase::kNone, "it has no id and is read or undone: it is forgotten"},
    Step<AppendPhase>{AppendPhase::kStopped, AppendPhase::kReading, "it is repeated, or its durable session restored"},
    Step<AppendPhase>{AppendPhase::kStopped, AppendPhase::kNone, "the session is rewound"},
    Step<AppendPhase>{AppendPhase::kDone, AppendPhase::kNone, "the session is rewound into it, or the next one begins"},
    Step<AppendPhase>{AppendPhase::kNone, AppendPhase::kStopped, "it was found in the store"},
    Step<AppendPhase>{AppendPhase::kNone, AppendPhase::kDone, "it was found in the store"},
};

// Which places go with which phase of the session's append. Reading needs a place that leads to the cache.
constexpr bool Together(Place place, AppendPhase phase) {
  return !(place == Place::kMovedOut && phase == AppendPhase::kReading);
}

template <typename State, size_t N>
constexpr bool Allowed(const std::array<Step<State>, N>& steps, State from, State to) {
  for (const Step<State>& step : steps) {
    if (step.from == from && step.to == to) return true;
  }
  return false;
}
constexpr bool Allowed(Place from, Place to) { return Allowed(kPlaceSteps, from, to); }
constexpr bool Allowed(AppendPhase from, AppendPhase to) { return Allowed(kAppendSteps, from, to); }

const char* Name(Place place);        // "open", "moved out", ..
const char* Name(AppendPhase phase);  // "none", "uploading", ..

// What a test sees of every change. Called after it.
struct StateWatch {
  std::function<void(Place from, Place to)> on_place;
  std::function<void(AppendPhase from, AppendPhase to)> on_append;
};

// One session's state, which changes by the tables alone: a change that they do not have is a bug (CHECK).
class SessionState {
 public:
  // first: one of kFirstPlaces. watch: null, or outlives this.
  explicit SessionState(Place first, const StateWatch* watch = nullptr);

  Place place() const { return place_; }
  AppendPhase append() const { return append_; }
  AppendPhase upload() const { return upload_; }  // kNone or kUploading: the append that comes after append()
  bool in_cache() const { return place_ == Place::kOpen || place_ == Place::kSaving; }
  bool reading() const { return append_ == AppendPhase::kReading; }

  void To(Place place);
  void To(AppendPhase phase);
  void UploadTo(AppendPhase phase);

 private:
  Place place_;
  AppendPhase append_ = AppendPhase::kNone, upload_ = AppendPhase::kNone;
  const StateWatch* watch_;
};

}  // namespace duo
