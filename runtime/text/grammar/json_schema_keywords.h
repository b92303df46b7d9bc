// Which keywords of a JSON schema change what it accepts and can be followed. Pure.
#pragma once

#include <string_view>

#include "runtime/text/grammar/json_schema_merge.h"

namespace duo {

// False for a keyword that would change what is accepted and is not supported; true also where it asks for nothing.
bool IsKnownKeyword(std::string_view keyword, const SchemaJson& value);

// Whether the schema has keywords that say anything of a value.
bool HasKeywords(const SchemaJson& schema);

}  // namespace duo
