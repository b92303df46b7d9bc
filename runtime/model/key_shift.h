// Mean-free keys: one vector for each KV head, the same for all tokens, which is taken from every key behind RoPE and
// before it is stored. All scores of a query move by the same number, so no softmax changes, and in a coded KV cache
// the codes' levels go to what tells tokens apart. It is worked out when a model is loaded, from the mean of its keys
// before RoPE (attn_patterns/key_means.h), never from a session.
//
// RoPE turns channels i and i + d / 2 of the key at position p by p * f_i. With the pair's mean as a complex number m,
// the vector nearest to all keys is m times the mean of e^{i p f} over the positions of texts: all of m where the
// channels hardly turn, and next to nothing where they turn often. How long texts are is not known when a model is
// loaded. They are taken to be of all lengths from an eighth of the model's positions to all of them, each octave
// alike: that takes more from texts that are shorter than the longest, which most are, and a little less from the
// longest.
//
// Pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "attn_patterns/key_means.h"
#include "runtime/model/rope.h"
#include "runtime/weights/config.h"

namespace duo {

// [layers][kv_heads][head_dim] f32, as RotateQk takes it of a layer's heads.
std::vector<float> KeyShift(const KeyMeans& means, const RopeFrequencies& rope, int64_t positions);

// A sentence where the model's softmax would see a shift of all scores, or the means are another shape's.
absl::Status CheckKeyShift(const ModelConfig& config, const KeyMeans& means, const std::string& dir);

// What a saved session says that its keys are kept without: a fingerprint of what KeyShift works with, so that it does
// not depend on a machine's sine and cosine.
std::string KeyShiftFingerprint(const KeyMeans& means, const RopeFrequencies& rope, int64_t positions);

}  // namespace duo
