// What a config.json may say that is refused, by name and with the reason. Any thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/files/json_fields.h"
#include "runtime/weights/families.h"

namespace duo {

// A model_type that is none of the families'; for well-known ones the sentence says why.
absl::Status UnknownModelType(const std::string& file, const std::string& type);

// Things that a file of a known model_type may ask for and that the forward does not do. The fields remember them.
void RefuseUnsupported(JsonFields& fields, const FamilySpec& spec);

}  // namespace duo
