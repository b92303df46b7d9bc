// Whether a later description of the API only adds to an older one: every message, field, enum value, service and
// method of the older is there under its name, with its number, its type and its way to be called. Pure functions; any
// thread.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <string>
#include <vector>

namespace duo {

// A sentence for each thing of `older` that `newer` lacks or has otherwise; which of its files declares it does not
// matter.
std::vector<std::string> BrokenPromises(const google::protobuf::FileDescriptorSet& older,
                                        const google::protobuf::DescriptorPool& newer);

}  // namespace duo
