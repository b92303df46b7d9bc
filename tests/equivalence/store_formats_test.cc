// What the session store makes of manifests that it did not write itself: forged ones, earlier and later versions,
// pages in another format.
#include <functional>

#include "absl/strings/match.h"
#include "runtime/saved/session_names.h"
#include "tests/equivalence/store_fixture.h"

namespace duo {
namespace {

using Json = nlohmann::json;

class StoreFormatsTest : public StoreFixture {
 protected:
  void SetUp() override {
    StoreFixture::SetUp();
    ASSERT_TRUE(OpenStore().ok());
  }
  // The saved session as e33224f would have written it.
  void MakeVersion2(const std::string& id) {
    Json json = ManifestJson(id);
    const std::string dir = absl::StrCat(kDir, "/", id, "/");
    const std::string table = json["sections_file"]["name"];
    SessionManifest m = *ParseManifest(disk_.Text(dir + "manifest"), "manifest");
    ASSERT_TRUE(ParseSections(disk_.Text(dir + table), "sections", &m).ok());
    Json sections = Json::array(), rings = Json::array();
    for (const KvSection& s : m.sections) {
      sections.push_back({s.layer, s.head, s.first, s.step, s.count, s.generation, s.offset, s.crc});
    }
    for (const KvRingSection& r : m.rings) rings.push_back({r.layer, r.head, r.offset, r.crc});
    json["rings [layer, head, offset, crc32c]"] = rings;
    json["sections [layer, head, first page, page step, pages, generation, offset, crc32c]"] = sections;
    json["version"] = 2;
    for (const char* field : {"sections_file", "needs"}) json.erase(field);
    PutManifest(id, json);
    disk_.Remove(dir + table);
    disk_.Remove(dir + ".duo-session");
    for (const std::string& name : disk_.Names(absl::StrCat(kDir, "/", id))) {
      if (ParseSavedName(name).kind == SavedKind::kLock) disk_.Remove(dir + name);
    }
  }
};

// For its whole life, on disk too.
TEST_F(StoreFormatsTest, ASessionThatWasReadSparselySaysSo) {
  ASSERT_TRUE(Create("doc", Text(200, 1)).ok());
  ASSERT_TRUE(Create("dense", Text(200, 2)).ok());
  SparseRead::Kept kept;
  kept.setting = *PrefillSparsityNamed("auto:0.95");
  kept.report = {"auto:0.95", 3, 0.97, 0.91, 1, 0, 0.05, 0.25};
  kept.densities.assign(bench_.engine->config().layers * bench_.engine->config().kv_heads, 120);
  kept.length = 200;
  bench_.engine->SetSparse(open_["doc"], kept);
  ASSERT_TRUE(Save("doc").ok());
  ASSERT_TRUE(Save("dense").ok());
  EXPECT_EQ(ManifestJson("doc")["needs"], Json::array({"sparse"})) << "programs that cannot say so refuse it";
  EXPECT_EQ(ManifestJson("dense")["needs"], Json::array());
  EXPECT_FALSE(ManifestJson("dense").contains("sparse"));
  ASSERT_TRUE(OpenStore().ok());
  ASSERT_TRUE(Restore("doc").ok());
  const SparseReport report = bench_.engine->Get(open_["doc"])->sparse;
  EXPECT_EQ(report.setting, "auto:0.95");
  EXPECT_EQ(report.audits, 3);
  EXPECT_EQ(report.mass, 0.97);
  EXPECT_EQ(report.least_layer, 1);
  Append("doc", Text(50, 3));  // read on densely
  ASSERT_TRUE(Save("doc").ok());
  ASSERT_TRUE(OpenStore().ok());
  ASSERT_TRUE(Restore("doc").ok());
  EXPECT_EQ(bench_.engine->Get(open_["doc"])->sparse.setting, "auto:0.95");
  EXPECT_EQ(bench_.engine->Kv(open_["doc"])->sparse.densities, kept.densities);
  store_->Release("doc");
  for (const auto& [field, value] : {std::pair("setting", Json("2")), {"mass", Json(7)}, {"densities", Json({1, 2})}}) {
    Json json = ManifestJson("doc");
    json["sparse"][field] = value;
    PutManifest("doc", json);
    EXPECT_EQ(Restore("doc").code(), absl::StatusCode::kDataLoss) << field;
  }
}

TEST_F(StoreFormatsTest, ForgedManifestsAreRefusedByName) {
  const Tokens text = Text(200, 1);
  SessionManifest meta;
  meta.append = SavedAppend{"a", 5, 150, 100, false, Text(100, 2), {}};
  meta.max_tokens = 400;
  meta.durable = meta.open = true;
  ASSERT_TRUE(Create("doc", text).ok());
  ASSERT_TRUE(Save("doc", meta).ok());
  ASSERT_TRUE(Create("other", Text(100, 3)).ok());
  ASSERT_TRUE(Save("other").ok());
  store_->Release("doc");
  const Json good = ManifestJson("doc");
  const FaultDisk::State saved = disk_.state;
  auto put_tokens = [&](const char* name, const Tokens& tokens) {
    const std::string bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size() * 4);
    disk_.Put(absl::StrCat("/saved/doc/", name), bytes);
    return Json{{"name", name}, {"bytes", bytes.size()}, {"crc32c", Crc32c(bytes.data(), bytes.size())}};
  };
  auto change_sections = [&](Json& m, const std::function<void(SessionManifest&)>& change) {
    SessionManifest manifest = *ParseManifest(disk_.Text("/saved/doc/manifest"), "manifest");
    const std::string name = m["sections_file"]["name"];
    ASSERT_TRUE(ParseSections(disk_.Text("/saved/doc/" + name), name, &manifest).ok());
    change(manifest);
    const std::string bytes = FormatSections(manifest);
    disk_.Put("/saved/doc/" + name, bytes);
    m["sections_file"] = {{"name", name}, {"bytes", bytes.size()}, {"crc32c", Crc32c(bytes.data(), bytes.size())}};
  };
  const int vocab = this->vocab();
  const std::map<std::string, std::function<void(Json&)>> forgeries = {
      {"append.start beyond the tokens", [](Json& m) { m["append"]["start"] = 100200; }},
      {"append.start far beyond", [](Json& m) { m["append"]["start"] = 200 + (int64_t{1} << 30); }},
      {"append.total 2^62",
       [&](Json& m) {
         m["append"]["total"] = int64_t{1} << 62;
         m["append"]["token_file"] = put_tokens("1-append-99", {});
       }},
      {"append.total beyond max_tokens", [&](Json& m) { m["append"]["total"] = 300; }},
      {"append tokens beyond the vocabulary",
       [&](Json& m) { m["append"]["token_file"] = put_tokens("1-append-99", Tokens(100, vocab)); }},
      {"tokens beyond the vocabulary",
       [&](Json& m) { m["token_file"] = put_tokens("1-tokens-99", Tokens(200, vocab)); }},
      {"tokens 2^31 - 1",
       [](Json& m) {
         m["tokens"] = m["max_tokens"] = (int64_t{1} << 31) - 1;
         m["token_file"]["bytes"] = ((int64_t{1} << 31) - 1) * 4;
         m.erase("append");
       }},
      {"one ring many times",
       [&](Json& m) {
         change_sections(m, [](SessionManifest& s) { std::fill(s.rings.begin(), s.rings.end(), s.rings[0]); });
       }},
      {"a ring of a retrieval head",
       [&](Json& m) {
         change_sections(m, [](SessionManifest& s) {
           const auto head = static_cast<int32_t>(s.retrieval.find('1'));
           s.rings[0].layer = head / s.kv_heads;
           s.rings[0].head = head % s.kv_heads;
         });
       }},
      {"a section of far away",
       [&](Json& m) { change_sections(m, [](SessionManifest& s) { s.sections[0].offset = int64_t{1} << 50; }); }},
      {"a hole", [&](Json& m) { change_sections(m, [](SessionManifest& s) { s.sections.pop_back(); }); }},
      {"a file of somebody else's", [](Json& m) { m["token_file"]["name"] = "../../etc/passwd"; }},
      {"a lock as rings", [](Json& m) { m["rings_file"] = "1-lock"; }},
  };
  for (const auto& [what, forge] : forgeries) {
    SCOPED_TRACE(what);
    store_.reset();
    disk_.state = saved;
    disk_.Restart(0);
    Json m = good;
    forge(m);
    PutManifest("doc", m);
    ASSERT_TRUE(OpenStore().ok());
    const absl::Status refused = Restore("doc");
    EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss) << refused;
    EXPECT_TRUE(absl::StrContains(refused.message(), "/saved/doc")) << refused;
    EXPECT_EQ(bench_.engine->List().size(), 0u);
    ASSERT_TRUE(Restore("other").ok());
    const std::vector<SavedSession> all = store_->List();
    EXPECT_EQ(all.size(), 2u);
  }
}

TEST_F(StoreFormatsTest, EarlierVersionsAndLaterFields) {
  const Tokens text = Text(200, 1);
  ASSERT_TRUE(Create("doc", text).ok());
  ASSERT_TRUE(Save("doc").ok());
  // Version 2, without a marker: read, taken over, written on.
  Crash(0);
  MakeVersion2("doc");
  ASSERT_TRUE(OpenStore().ok());
  ExpectRestored("doc", text);
  Append("doc", Text(9, 2));
  absl::Status saved = Save("doc");
  ASSERT_TRUE(saved.ok()) << saved;
  ExpectRestored("doc", Joined(text, Text(9, 2)));
  EXPECT_EQ(ManifestJson("doc")["version"], 3);

  // Version 2 that is only marked as closed, and then version 1, whose pages are not read.
  Crash(0);
  MakeVersion2("doc");
  ASSERT_TRUE(OpenStore().ok());
  ASSERT_TRUE(store_->SetOpen("doc", true).ok());
  ExpectRestored("doc", Joined(text, Text(9, 2)));
  Crash(0);
  MakeVersion2("doc");
  Json json = ManifestJson("doc");
  json["version"] = 1;
  PutManifest("doc", json);
  ASSERT_TRUE(OpenStore().ok());
  absl::Status refused = Restore("doc");
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "--reread")) << refused;
  ASSERT_EQ(store_->List().size(), 1u);
  EXPECT_FALSE(store_->List()[0].usable.ok());
  EXPECT_TRUE(store_->List()[0].rereadable);
  const auto texts = store_->ReadTexts("doc");
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ(texts->tokens, Joined(text, Text(9, 2)));
  EXPECT_FALSE(store_->SetOpen("doc", false).ok());  // it would become a version that it is not
  ASSERT_TRUE(Create("doc", texts->tokens).ok());
  saved = Save("doc", {}, true);
  ASSERT_TRUE(saved.ok()) << saved;
  ExpectRestored("doc", texts->tokens);

  // Fields of later programs are kept, needs are refused by name, and later versions listed as what they are.
  json = ManifestJson("doc");
  for (const char* field : {"page_sums", "offsets", "rings_at", "ring_slots"}) json[field] = {{"x", 1}};
  json["owner"] = "anna";
  json["tail"] = "not yet read \xc3\xa4";
  json["chat"] = true;
  PutManifest("doc", json);
  ASSERT_TRUE(OpenStore().ok());
  ASSERT_TRUE(store_->SetOpen("doc", true).ok());
  const Json kept = ManifestJson("doc");
  for (const char* field : {"page_sums", "offsets", "rings_at", "ring_slots", "owner", "tail", "chat"}) {
    EXPECT_EQ(kept[field], json[field]) << field;
  }
  ExpectRestored("doc", texts->tokens);
  json["needs"] = {"ring_slots"};
  PutManifest("doc", json);
  ASSERT_TRUE(OpenStore().ok());
  refused = Restore("doc");
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "\"ring_slots\"")) << refused;
  json["version"] = 4;
  PutManifest("doc", json);
  ASSERT_TRUE(OpenStore().ok());
  ASSERT_EQ(store_->List().size(), 1u);
  EXPECT_TRUE(absl::StrContains(store_->List()[0].usable.message(), "format version 4"));
  disk_.Put("/saved/doc/manifest", "{\"format\": \"duo session\"");
  ASSERT_TRUE(OpenStore().ok());
  ASSERT_EQ(store_->List().size(), 1u) << "a damaged one is listed too";
  EXPECT_EQ(store_->List()[0].usable.code(), absl::StatusCode::kDataLoss);
}

TEST_F(StoreFormatsTest, PagesInF32AreReadAsBf16) {
  const Tokens text = Text(300, 1);
  ASSERT_TRUE(Create("doc", text).ok());
  ASSERT_TRUE(Save("doc").ok());
  const std::vector<float> f32 = Ask(open_["doc"]);
  store_.reset();
  bench_.engine.reset();
  bench_ = OpenBench(KvFormat::kBF16);
  ASSERT_TRUE(OpenStore().ok());
  const absl::Status restored = Restore("doc");
  ASSERT_TRUE(restored.ok()) << restored;
  const std::vector<float> bf16 = Ask(open_["doc"]);
  for (size_t i = 0; i < f32.size(); ++i) ASSERT_LE(std::abs(f32[i] - bf16[i]), golden_.duo.tolerance()) << i;
  // From then on it is saved in bf16, all of it.
  Append("doc", Text(9, 2));
  ASSERT_TRUE(Save("doc").ok());
  EXPECT_EQ(ManifestJson("doc")["kv_format"], "bf16");
  const std::vector<float> before = Ask(open_["doc"]);
  ASSERT_TRUE(OpenStore().ok());
  ASSERT_TRUE(Restore("doc").ok());
  EXPECT_EQ(Ask(open_["doc"]), before);
  // The other way is refused, and can be read again.
  store_.reset();
  bench_.engine.reset();
  bench_ = OpenBench(KvFormat::kF32);
  ASSERT_TRUE(OpenStore().ok());
  EXPECT_EQ(Restore("doc").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->ReadTexts("doc")->tokens, Joined(text, Text(9, 2)));
}

}  // namespace
}  // namespace duo
