// Memory that is used again: fresh pages cost 10-50 % of a training step.
#pragma once
#include <cstddef>

namespace nextstate {

void* pool_take(size_t bytes);  // 64-byte aligned; NaN-filled when NEXTSTATE_POISON=1
void pool_give(void* p, size_t bytes);
void pool_trim();
size_t pool_cached();

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t floats) : bytes_(floats * 4), p_(static_cast<float*>(pool_take(floats * 4))) {}
  Memory(Memory&& o) noexcept : bytes_(o.bytes_), p_(o.p_) { o.p_ = nullptr; }
  Memory& operator=(Memory&& o) noexcept {
    reset();
    bytes_ = o.bytes_, p_ = o.p_, o.p_ = nullptr;
    return *this;
  }
  ~Memory() { reset(); }
  // At least this many floats; contents are lost when it grows.
  float* grow(size_t floats) {
    if (floats * 4 > bytes_ || !p_) *this = Memory(floats);
    return p_;
  }
  float* get() const { return p_; }

 private:
  void reset() {
    if (p_) pool_give(p_, bytes_);
    p_ = nullptr;
  }
  size_t bytes_ = 0;
  float* p_ = nullptr;
};

}  // namespace nextstate
