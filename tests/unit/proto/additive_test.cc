// The API's numbers, names and types, as clients of commit e33224f have them, stay.
#include "tests/unit/proto/additive.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <sstream>

#include "absl/strings/str_join.h"
#include "duo/v1/duo.pb.h"
#include "tests/support/source_dir.h"

namespace duo {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;

FileDescriptorSet Anchor() {
  std::ifstream file(SourceDir() + "/tests/anchors/duo_v1.txtpb");
  std::stringstream text;
  text << file.rdbuf();
  FileDescriptorSet set;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text.str(), &set));
  EXPECT_EQ(set.file_size(), 1);
  return set;
}

TEST(Api, OnlyGrows) {
  EXPECT_NE(v1::Session::descriptor(), nullptr);  // that the program's own descriptors are linked
  const std::vector<std::string> broken = BrokenPromises(Anchor(), *DescriptorPool::generated_pool());
  EXPECT_TRUE(broken.empty()) << absl::StrJoin(broken, "\n");
}

// What BrokenPromises finds when the older API changes like this.
std::string AfterChange(const std::function<void(FileDescriptorProto&)>& change) {
  FileDescriptorSet later = Anchor();
  change(*later.mutable_file(0));
  DescriptorPool pool;
  EXPECT_NE(pool.BuildFile(later.file(0)), nullptr);
  return absl::StrJoin(BrokenPromises(Anchor(), pool), "\n");
}

google::protobuf::DescriptorProto& Message(FileDescriptorProto& file, const std::string& name) {
  for (auto& message : *file.mutable_message_type())
    if (message.name() == name) return message;
  ADD_FAILURE() << "no message " << name;
  return *file.add_message_type();
}

TEST(Api, AChangeOfWhatIsThereIsFound) {
  EXPECT_EQ(AfterChange([](FileDescriptorProto& f) { Message(f, "ForkRequest").mutable_field(2)->set_number(9); }),
            "duo.v1.ForkRequest: expected optional int64 max_tokens = 3, found nothing");
  EXPECT_EQ(AfterChange([](FileDescriptorProto& f) { Message(f, "ForkRequest").mutable_field(1)->set_name("name"); }),
            "duo.v1.ForkRequest: expected optional string new_id = 2, found optional string name = 2");
  EXPECT_EQ(
      AfterChange([](FileDescriptorProto& f) {
        Message(f, "RewindRequest").mutable_field(1)->set_type(google::protobuf::FieldDescriptorProto::TYPE_SINT64);
      }),
      "duo.v1.RewindRequest: expected optional int64 tokens = 2, found optional sint64 tokens = 2");
  EXPECT_EQ(AfterChange([](FileDescriptorProto& f) { Message(f, "GetRequest").mutable_field()->RemoveLast(); }),
            "duo.v1.GetRequest: expected optional string session_id = 1, found nothing");
  EXPECT_EQ(AfterChange([](FileDescriptorProto& f) {
              Message(f, "Session").mutable_field(4)->set_type_name(".duo.v1.AppendState");
              Message(f, "Session").mutable_field(4)->set_type(google::protobuf::FieldDescriptorProto::TYPE_MESSAGE);
            }),
            "duo.v1.Session: expected optional enum duo.v1.Residence residence = 5, found optional message "
            "duo.v1.AppendState with presence residence = 5");
  EXPECT_EQ(AfterChange([](FileDescriptorProto& f) { f.mutable_enum_type(0)->mutable_value(1)->set_number(7); }),
            "duo.v1.Residence: expected RESIDENCE_OPEN = 1, found RESIDENCE_OPEN = 7");
  EXPECT_EQ(
      AfterChange([](FileDescriptorProto& f) { f.mutable_service(0)->mutable_method(2)->set_server_streaming(false); }),
      "duo.v1.Sessions.Ask: expected duo.v1.AskRequest -> stream duo.v1.AskResponse, found duo.v1.AskRequest -> "
      "duo.v1.AskResponse");
  EXPECT_EQ(AfterChange([](FileDescriptorProto& f) { f.mutable_service()->RemoveLast(); }),
            "duo.v1.Cluster is missing");
}

TEST(Api, AnAdditionIsNone) {
  EXPECT_EQ(AfterChange([](FileDescriptorProto& f) {
              auto* field = Message(f, "GetRequest").add_field();
              *field = Message(f, "GetRequest").field(0);
              field->set_name("new_one");
              field->set_number(2);
              field->clear_json_name();
              f.add_message_type()->set_name("New");
              auto* method = f.mutable_service(0)->add_method();
              *method = f.service(0).method(0);
              method->set_name("Another");
              f.mutable_enum_type(0)->add_value()->set_name("RESIDENCE_NEW");
              f.mutable_enum_type(0)->mutable_value()->rbegin()->set_number(9);
            }),
            "");
}

}  // namespace
}  // namespace duo
