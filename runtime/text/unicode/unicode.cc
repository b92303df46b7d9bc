#include "runtime/text/unicode/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <cstdint>

#include "kernels/base/check.h"

namespace duo {
namespace {

const uint8_t* Bytes(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

// ICU's macros count in int32 or in whatever the index is: int64_t lets a text be longer than 2 GiB.
int32_t ReadUtf8(const uint8_t* bytes, int64_t* i, int64_t n) {
  UChar32 c;
  int64_t k = *i;
  U8_NEXT(bytes, k, n, c);
  *i = k;
  return c;
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  const uint8_t* bytes = Bytes(text);
  const int64_t n = static_cast<int64_t>(text.size());
  for (int64_t i = 0; i < n;) {
    if (bytes[i] < 0x80) {
      ++i;
    } else if (ReadUtf8(bytes, &i, n) < 0) {
      return false;
    }
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  if (IsValidUtf8(text)) return std::string(text);
  std::string out;
  out.reserve(text.size() + 16);
  const uint8_t* bytes = Bytes(text);
  const int64_t n = static_cast<int64_t>(text.size());
  for (int64_t i = 0; i < n;) {
    const int64_t start = i;
    if (ReadUtf8(bytes, &i, n) < 0) {
      out += "\xEF\xBF\xBD";
    } else {
      out.append(text.substr(start, i - start));
    }
  }
  return out;
}

size_t CertainUtf8Prefix(std::string_view text) {
  const uint8_t* bytes = Bytes(text);
  const size_t n = text.size();
  // An unfinished character has at most three bytes; its first byte says how many it wants.
  for (size_t back = 1; back <= 3 && back <= n; ++back) {
    const uint8_t lead = bytes[n - back];
    if ((lead & 0xC0) == 0x80) continue;
    const size_t wants = lead >= 0xF0 && lead <= 0xF4  ? 4
                         : lead >= 0xE0 && lead < 0xF0 ? 3
                         : lead >= 0xC2 && lead < 0xE0 ? 2
                                                       : 1;
    if (wants <= back) return n;
    // Unfinished only if the bytes there are a prefix of some character: otherwise they are ill-formed already.
    int64_t i = static_cast<int64_t>(n - back);
    ReadUtf8(bytes, &i, static_cast<int64_t>(n));
    return i == static_cast<int64_t>(n) ? n - back : n;
  }
  return n;
}

size_t RawOffset(std::string_view bytes, size_t repaired) {
  constexpr size_t kReplacementBytes = 3;  // of U+FFFD
  const int64_t n = static_cast<int64_t>(bytes.size());
  int64_t i = 0;
  for (size_t at = 0; i < n && at < repaired;) {
    const int64_t begin = i;
    at += ReadUtf8(Bytes(bytes), &i, n) < 0 ? kReplacementBytes : static_cast<size_t>(i - begin);
  }
  return static_cast<size_t>(i);
}

char32_t NextCodePoint(std::string_view text, size_t* pos) {
  const uint8_t* bytes = Bytes(text);
  if (bytes[*pos] < 0x80) return bytes[(*pos)++];
  int64_t i = static_cast<int64_t>(*pos);
  const int32_t c = ReadUtf8(bytes, &i, static_cast<int64_t>(text.size()));
  *pos = static_cast<size_t>(i);
  return c < 0 ? 0xFFFD : static_cast<char32_t>(c);
}

char32_t PreviousCodePoint(std::string_view text, size_t* pos) {
  const uint8_t* bytes = Bytes(text);
  size_t start = *pos - 1;
  while (start > 0 && (bytes[start] & 0xC0) == 0x80) --start;
  *pos = start;
  size_t end = start;
  return NextCodePoint(text, &end);
}

void AppendUtf8(char32_t c, std::string* out) {
  uint8_t buffer[U8_MAX_LENGTH];
  int32_t n = 0;
  U8_APPEND_UNSAFE(buffer, n, static_cast<UChar32>(c));
  out->append(reinterpret_cast<const char*>(buffer), n);
}

bool IsWhiteSpace(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }

bool IsWordCharacter(char32_t code) {
  const UChar32 c = static_cast<UChar32>(code);
  return u_isUAlphabetic(c) || (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

namespace {

const icu::Normalizer2& NormalizerOf(NormalizationForm form) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = nullptr;
  switch (form) {
    case NormalizationForm::kNfc:
      normalizer = icu::Normalizer2::getNFCInstance(error);
      break;
    case NormalizationForm::kNfd:
      normalizer = icu::Normalizer2::getNFDInstance(error);
      break;
    case NormalizationForm::kNfkc:
      normalizer = icu::Normalizer2::getNFKCInstance(error);
      break;
    case NormalizationForm::kNfkd:
      normalizer = icu::Normalizer2::getNFKDInstance(error);
      break;
  }
  DUO_CHECK_MSG(U_SUCCESS(error), u_errorName(error));
  return *normalizer;
}

}  // namespace

bool HasNormalizationBoundaryBefore(char32_t c, NormalizationForm form) {
  return NormalizerOf(form).hasBoundaryBefore(static_cast<UChar32>(c)) != 0;
}

std::string NormalizeUnicode(std::string_view text, NormalizationForm form) {
  const icu::Normalizer2& normalizer = NormalizerOf(form);
  UErrorCode error = U_ZERO_ERROR;
  std::string out;
  out.reserve(text.size());
  icu::StringByteSink<std::string> sink(&out);
  // ICU takes at most 2 GiB at a time. A cut before a white-space character is safe: none composes with what is before.
  constexpr size_t kMost = size_t{1} << 28;
  while (!text.empty()) {
    size_t take = text.size();
    if (take > kMost) {
      take = kMost;
      while (take > 1 && text[take] != ' ' && text[take] != '\n') --take;
    }
    normalizer.normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(take)), sink, nullptr, error);
    DUO_CHECK_MSG(U_SUCCESS(error), u_errorName(error));
    text.remove_prefix(take);
  }
  return out;
}

std::string LowercaseUnicode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (c == 0x130) {  // the one character whose full lower case is two characters
      out += "i\xCC\x87";
    } else {
      AppendUtf8(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), &out);
    }
  }
  return out;
}

std::string RemoveMarks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = NextCodePoint(text, &i);
    if ((U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_M_MASK) == 0) out.append(text.substr(start, i - start));
  }
  return out;
}

}  // namespace duo
