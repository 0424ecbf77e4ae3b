#include "pool.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace nextstate {
namespace {

constexpr size_t kLimit = size_t(1) << 30, kHuge = size_t(2) << 20;
constexpr int kClasses = 256;

struct Pool {
  std::mutex mutex;
  std::vector<void*> free[kClasses];
  size_t cached = 0;
};

// Never destroyed: torch may free tensors after static destructors have run.
Pool& pool() {
  static Pool* p = [] {
    auto* q = new Pool;
    // A fork while another thread holds the lock must not leave it locked in the child.
    pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); }, [] { pool().mutex.unlock(); });
    return q;
  }();
  return *p;
}

// Four classes for each power of two.
size_t class_of(size_t bytes, int& index) {
  size_t size = 256;
  index = 0;
  while (size < bytes) {
    const size_t quarter = size / 4;
    for (int i = 1; i <= 4; i++)
      if (size + i * quarter >= bytes) {
        index += i;
        return size + i * quarter;
      }
    size *= 2;
    index += 4;
  }
  return size;
}

bool poisoned() {
  const char* e = std::getenv("NEXTSTATE_POISON");
  return e && *e && *e != '0';
}

void release(void* p) { std::free(p); }

}  // namespace

void* pool_take(size_t bytes) {
  Pool& p = pool();
  int index;
  const size_t size = class_of(bytes ? bytes : 1, index);
  void* block = nullptr;
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    auto& list = p.free[index];
    if (!list.empty()) {
      block = list.back();
      list.pop_back();
      p.cached -= size;
    }
  }
  if (!block) {
    const size_t align = size >= kHuge ? kHuge : 64;
    block = std::aligned_alloc(align, (size + align - 1) / align * align);
    if (!block) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (size >= kHuge) madvise(block, size, MADV_HUGEPAGE);
#endif
  }
  if (poisoned()) std::memset(block, 0xff, size);  // a NaN in every float
  return block;
}

void pool_give(void* block, size_t bytes) {
  Pool& p = pool();
  int index;
  const size_t size = class_of(bytes ? bytes : 1, index);
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    if (p.cached + size <= kLimit) {
      p.free[index].push_back(block);
      p.cached += size;
      return;
    }
  }
  release(block);
}

void pool_trim() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  for (auto& list : p.free) {
    for (void* block : list) release(block);
    list.clear();
  }
  p.cached = 0;
}

size_t pool_cached() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  return p.cached;
}

}  // namespace nextstate
