#include "launcher/serve/http/wire/request.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace duo::http {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = absl::ascii_tolower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Host's characters: names, addresses, a port.
bool IsAuthority(absl::string_view text) {
  return !text.empty() && text.size() <= 255 && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']';
  });
}

// What may be told back in an answer's header, and written to a log, as it is.
bool IsPlain(absl::string_view text) {
  return text.size() <= 128 && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '/';
         });
}

// VERSION-TRACE-SPAN-FLAGS, of 2, 32, 16 and 2 hexadecimal digits.
bool IsTrace(absl::string_view text) {
  constexpr absl::string_view kShape = "xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
  return std::equal(text.begin(), text.end(), kShape.begin(), kShape.end(), [](char c, char shape) {
    return shape == '-' ? c == '-' : absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
  });
}

std::optional<Refusal> ReadLengths(const Header& header, Request& request) {
  const int lengths = header.Count("content-length"), encodings = header.Count("transfer-encoding");
  if (lengths > 1) return Refusal{400, "the request has more than one Content-Length"};
  if (lengths > 0 && encodings > 0) return Refusal{400, "the request has both Content-Length and Transfer-Encoding"};
  if (encodings > 0) {
    if (encodings > 1 || header.version < 11) return Refusal{400, "Transfer-Encoding cannot be used like this"};
    if (!absl::EqualsIgnoreCase(header.Find("transfer-encoding"), "chunked")) {
      return Refusal{501, "the only Transfer-Encoding known is chunked"};
    }
    request.chunked = true;
  }
  if (lengths == 0) return std::nullopt;
  const absl::string_view text = header.Find("content-length");
  int64_t length = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (error != std::errc() || end != text.data() + text.size() || !absl::ascii_isdigit(text[0])) {
    return Refusal{400, "Content-Length is not a number"};
  }
  request.content_length = length;
  return std::nullopt;
}

// The target: a path, or a whole address whose host then counts instead of Host.
std::optional<Refusal> ReadTarget(const Header& header, Request& request) {
  absl::string_view target = header.target;
  for (absl::string_view scheme : {"http://", "https://"}) {
    if (!absl::StartsWithIgnoreCase(target, scheme)) continue;
    target.remove_prefix(scheme.size());
    const size_t slash = std::min(target.find('/'), target.size());
    request.authority = absl::AsciiStrToLower(target.substr(0, slash));
    target.remove_prefix(slash);
    if (target.empty()) target = "/";
    break;
  }
  if (target.empty() || target[0] != '/') return Refusal{400, "the request's target is not a path"};
  const size_t mark = target.find('?');
  const absl::string_view path = target.substr(1, mark == absl::string_view::npos ? mark : mark - 1);
  for (absl::string_view segment : absl::StrSplit(path, '/')) {
    std::optional<std::string> decoded = Decoded(segment);
    if (!decoded.has_value() || decoded->find('\0') != std::string::npos) {
      return Refusal{400, "the path has an escape that is none"};
    }
    request.path.push_back(std::move(*decoded));
  }
  if (mark == absl::string_view::npos) return std::nullopt;
  for (absl::string_view pair : absl::StrSplit(target.substr(mark + 1), '&', absl::SkipEmpty())) {
    const size_t equals = std::min(pair.find('='), pair.size());
    std::optional<std::string> name = Decoded(pair.substr(0, equals));
    std::optional<std::string> value = Decoded(pair.substr(std::min(equals + 1, pair.size())));
    if (!name.has_value() || !value.has_value()) return Refusal{400, "the query has an escape that is none"};
    request.query[*name] = std::move(*value);
  }
  return std::nullopt;
}

bool HasWord(absl::string_view list, absl::string_view word) {
  for (absl::string_view part : absl::StrSplit(list, ',')) {
    if (absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(part), word)) return true;
  }
  return false;
}

}  // namespace

int Header::Count(absl::string_view name) const {
  return static_cast<int>(std::count_if(fields.begin(), fields.end(), [&](const auto& f) { return f.first == name; }));
}

absl::string_view Header::Find(absl::string_view name) const {
  for (const auto& [field, value] : fields) {
    if (field == name) return value;
  }
  return {};
}

std::optional<std::string> Decoded(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = HexDigit(text[i + 1]), low = HexDigit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

std::variant<Request, Refusal> ReadHeader(const Header& header) {
  Request request;
  request.method = header.method;
  request.http10 = header.version < 11;
  if (std::optional<Refusal> refusal = ReadLengths(header, request)) return *refusal;
  const int hosts = header.Count("host");
  if (hosts > 1 || (hosts == 0 && !request.http10)) return Refusal{400, "a request has exactly one Host"};
  request.authority = absl::AsciiStrToLower(header.Find("host"));
  if (std::optional<Refusal> refusal = ReadTarget(header, request)) return *refusal;
  if (!request.authority.empty() && !IsAuthority(request.authority)) return Refusal{400, "Host is not a host"};
  if (header.Count("authorization") > 1) return Refusal{400, "a request has at most one Authorization"};
  if (header.Count("content-type") > 1) return Refusal{400, "a request has at most one Content-Type"};
  if (header.Count("origin") > 1) return Refusal{400, "a request has at most one Origin"};
  const absl::string_view encoding = header.Find("content-encoding");
  if (!encoding.empty() && !absl::EqualsIgnoreCase(encoding, "identity")) {
    return Refusal{415, "Content-Encoding is not supported: send the body as it is"};
  }
  request.authorization = std::string(header.Find("authorization"));
  if (const absl::string_view key = header.Find("x-api-key"); request.authorization.empty() && !key.empty()) {
    request.authorization = absl::StrCat("Bearer ", key);  // as Anthropic's clients send it
  }
  const absl::string_view type = header.Find("content-type");
  request.content_type = absl::AsciiStrToLower(absl::StripAsciiWhitespace(type.substr(0, type.find(';'))));
  request.content_range = std::string(header.Find("content-range"));
  request.origin = std::string(header.Find("origin"));
  if (IsPlain(header.Find("x-request-id"))) request.request_id = std::string(header.Find("x-request-id"));
  if (IsTrace(header.Find("traceparent"))) request.traceparent = std::string(header.Find("traceparent"));
  const absl::string_view connection = header.Find("connection");
  request.keep_alive = request.http10 ? HasWord(connection, "keep-alive") : !HasWord(connection, "close");
  if (const absl::string_view expect = header.Find("expect"); !expect.empty()) {
    if (!absl::EqualsIgnoreCase(expect, "100-continue")) return Refusal{417, "the only Expect known is 100-continue"};
    request.expects_continue = !request.http10;
  }
  return request;
}

}  // namespace duo::http
