// Memory at whole cache lines, so that no vector load touches two of them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace proscale {

constexpr size_t cache_line = 64;  // bytes

// `count` elements and one more cache line, which vector loads may touch. Throws std::bad_alloc.
inline void* allocate_aligned(size_t count, size_t element_bytes) {
  void* const p = std::aligned_alloc(cache_line, (count * element_bytes + 2 * cache_line - 1) / cache_line * cache_line);
  if (!p) throw std::bad_alloc();
  return p;
}

// For std::vector.
template <class E>
struct AlignedAllocator {
  using value_type = E;
  AlignedAllocator() = default;
  template <class F>
  AlignedAllocator(const AlignedAllocator<F>&) {}
  E* allocate(size_t count) { return static_cast<E*>(allocate_aligned(count, sizeof(E))); }
  void deallocate(E* p, size_t) { std::free(p); }
  bool operator==(const AlignedAllocator&) const = default;
};
template <class E>
using AlignedVector = std::vector<E, AlignedAllocator<E>>;

// Memory that nobody fills before it is used.
struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};
template <class E>
using AlignedArray = std::unique_ptr<E[], FreeAligned>;
template <class E>
AlignedArray<E> uninitialized(int64_t count) {
  return AlignedArray<E>(static_cast<E*>(allocate_aligned(static_cast<size_t>(count), sizeof(E))));
}

}  // namespace proscale
