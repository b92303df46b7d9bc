// Layers whose window is short keep rings instead of pages, in families whose row says so (WindowRule::kAlternate): a
// streaming head without a window of its own sees what a head of such a layer sees and more, and the layer's window
// hides the rest. Pure, any thread.
#pragma once

#include "attn_patterns/head_plan.h"
#include "runtime/weights/config.h"

namespace duo {

// Makes the heads of windowed layers streaming where the plan's recent tokens cover the window; a plan without
// streaming heads gets rings of just the window's length for that.
void KeepWindowsInRings(const ModelConfig& config, HeadPlan* plan);

}  // namespace duo
