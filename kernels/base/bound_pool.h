// Pools whose threads work for a device. A CUDA device is selected by each thread for itself, and a thread that did not
// makes its context on GPU 0, whichever its device is: a pool is bound once, when it is made, so that what runs on it
// need not know.
#pragma once

#include <functional>

#include "kernels/base/device.h"
#include "kernels/base/thread_pool.h"

namespace duo {

// Runs work once on each of the pool's threads, the caller's included, at the same time.
void OnEveryThread(ThreadPool& pool, const std::function<void(int thread)>& work);

// Device::BindThread on each of them.
void BindThreads(ThreadPool& pool, const Device& device);

}  // namespace duo
