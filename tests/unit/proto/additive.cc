#include "tests/unit/proto/additive.h"

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;

// All that a client's code and bytes know of a field.
std::string Signature(const FieldDescriptor& field) {
  const char* const labels[] = {"?", "optional", "required", "repeated"};
  std::string text = absl::StrCat(labels[field.label()], " ", field.type_name());
  if (field.message_type() != nullptr) absl::StrAppend(&text, " ", field.message_type()->full_name());
  if (field.enum_type() != nullptr) absl::StrAppend(&text, " ", field.enum_type()->full_name());
  if (field.is_packed()) absl::StrAppend(&text, " packed");
  if (field.has_presence()) absl::StrAppend(&text, " with presence");
  if (field.real_containing_oneof() != nullptr) absl::StrAppend(&text, " of ", field.real_containing_oneof()->name());
  return absl::StrCat(text, " ", field.name(), " = ", field.number());
}

std::string Signature(const MethodDescriptor& method) {
  return absl::StrCat(method.client_streaming() ? "stream " : "", method.input_type()->full_name(), " -> ",
                      method.server_streaming() ? "stream " : "", method.output_type()->full_name());
}

class Comparison {
 public:
  explicit Comparison(const DescriptorPool& newer) : newer_(newer) {}

  void Compare(const FileDescriptor& file) {
    for (int i = 0; i < file.message_type_count(); ++i) Compare(*file.message_type(i));
    for (int i = 0; i < file.enum_type_count(); ++i) Compare(*file.enum_type(i));
    for (int i = 0; i < file.service_count(); ++i) Compare(*file.service(i));
  }

  std::vector<std::string> broken;

 private:
  void Compare(const Descriptor& older) {
    const Descriptor* const message = newer_.FindMessageTypeByName(std::string(older.full_name()));
    if (message == nullptr) return Missing(older.full_name());
    for (int i = 0; i < older.field_count(); ++i) {
      const FieldDescriptor* const field = message->FindFieldByNumber(older.field(i)->number());
      Expect(older.full_name(), Signature(*older.field(i)), field == nullptr ? "nothing" : Signature(*field));
    }
    for (int i = 0; i < older.nested_type_count(); ++i) Compare(*older.nested_type(i));
    for (int i = 0; i < older.enum_type_count(); ++i) Compare(*older.enum_type(i));
  }

  void Compare(const EnumDescriptor& older) {
    const EnumDescriptor* const enumeration = newer_.FindEnumTypeByName(std::string(older.full_name()));
    if (enumeration == nullptr) return Missing(older.full_name());
    for (int i = 0; i < older.value_count(); ++i) {
      const auto* const value = enumeration->FindValueByName(std::string(older.value(i)->name()));
      Expect(older.full_name(), absl::StrCat(older.value(i)->name(), " = ", older.value(i)->number()),
             value == nullptr ? "nothing" : absl::StrCat(value->name(), " = ", value->number()));
    }
  }

  void Compare(const ServiceDescriptor& older) {
    const ServiceDescriptor* const service = newer_.FindServiceByName(std::string(older.full_name()));
    if (service == nullptr) return Missing(older.full_name());
    for (int i = 0; i < older.method_count(); ++i) {
      const MethodDescriptor* const method = service->FindMethodByName(std::string(older.method(i)->name()));
      Expect(absl::StrCat(older.full_name(), ".", older.method(i)->name()), Signature(*older.method(i)),
             method == nullptr ? "nothing" : Signature(*method));
    }
  }

  template <class Name>
  void Missing(const Name& name) {
    broken.push_back(absl::StrCat(name, " is missing"));
  }
  template <class Name>
  void Expect(const Name& where, const std::string& expected, const std::string& found) {
    if (found != expected) broken.push_back(absl::StrCat(where, ": expected ", expected, ", found ", found));
  }

  const DescriptorPool& newer_;
};

}  // namespace

std::vector<std::string> BrokenPromises(const google::protobuf::FileDescriptorSet& older, const DescriptorPool& newer) {
  DescriptorPool pool;
  Comparison comparison(newer);
  for (const auto& file : older.file()) {
    const FileDescriptor* const built = pool.BuildFile(file);
    if (built == nullptr) {
      comparison.broken.push_back(absl::StrCat(file.name(), " cannot be built"));
    } else {
      comparison.Compare(*built);
    }
  }
  return comparison.broken;
}

}  // namespace duo
