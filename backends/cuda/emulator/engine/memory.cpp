// Memory of the device: each buffer lies between two guards, pages that nobody may touch, and ends
// as near to the second one as its alignment allows. What is given back stays untouchable a while.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

#include "engine.h"

namespace emulator {

static const size_t GUARD = 1 << 20, ALIGNMENT = 256, KEPT = 256;
static const u8 SURROUNDING = 0xa5;  // of the rest of a buffer's pages

static std::map<u8*, Buffer> buffers;
static std::deque<u8*> returned;

static size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

extern "C" void* emulator_allocate(size_t bytes, int followed) {
  size_t room = rounded(bytes ? bytes : 1, ALIGNMENT), body = rounded(room, PAGE);
  void* pages = mmap(nullptr, body + 2 * GUARD, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  u8* first = (u8*)pages + GUARD;
  if (mprotect(first, body, PROT_READ | PROT_WRITE)) return nullptr;
  u8* start = first + body - room;
  memset(first, SURROUNDING, start - first);
  memset(start, UNKNOWN, bytes);
  memset(start + bytes, SURROUNDING, room - bytes);
  u8* known = followed ? (u8*)calloc(bytes + 1, 1) : nullptr;
  Cell* cells = followed ? new_cells(bytes) : nullptr;
  buffers[(u8*)pages] = Buffer{(u8*)pages, body + 2 * GUARD, start, bytes, true, known, cells};
  return start;
}

Buffer* nearest(const void* place) {
  auto after = buffers.upper_bound((u8*)place);
  if (after == buffers.begin()) return nullptr;
  Buffer& buffer = std::prev(after)->second;
  return (u8*)place < buffer.pages + buffer.mapped ? &buffer : nullptr;
}

extern "C" void emulator_free(void* start) {
  Buffer* buffer = nearest(start);
  buffer->live = false;
  mprotect(buffer->pages, buffer->mapped, PROT_NONE);
  madvise(buffer->pages, buffer->mapped, MADV_DONTNEED);
  free(buffer->known);
  if (buffer->cells) free_cells(buffer->cells, buffer->bytes);
  buffer->known = nullptr;
  buffer->cells = nullptr;
  returned.push_back(buffer->pages);
  if (returned.size() > KEPT) {
    Buffer& oldest = buffers[returned.front()];
    munmap(oldest.pages, oldest.mapped);
    buffers.erase(oldest.pages);
    returned.pop_front();
  }
}

// The bytes from a place to the end of the buffer that it lies in; -1: it lies in none.
extern "C" long long emulator_room(const void* place) {
  Buffer* buffer = nearest(place);
  if (!buffer || !buffer->live || (u8*)place < buffer->start) return -1;
  return (long long)buffer->bytes - ((u8*)place - buffer->start);
}

// What the host does with memory: it writes some bytes, or copies them from elsewhere; whether all
// of some are known.
extern "C" void emulator_wrote(void* place, size_t bytes) {
  Buffer* buffer = nearest(place);
  if (buffer->known) memset(buffer->known + ((u8*)place - buffer->start), 1, bytes);
}

extern "C" void emulator_copied(void* target, void* source, size_t bytes) {
  Buffer *to = nearest(target), *from = nearest(source);
  if (!to->known) return;
  memcpy(to->known + ((u8*)target - to->start), from->known + ((u8*)source - from->start), bytes);
}

extern "C" long long emulator_unknown(void* place, size_t bytes) {  // the first one, or -1
  Buffer* buffer = nearest(place);
  if (!buffer->known || !bytes) return -1;
  u8* begin = buffer->known + ((u8*)place - buffer->start);
  u8* found = (u8*)memchr(begin, 0, bytes);
  return found ? found - begin : -1;
}

std::string relation(const void* place) {
  Buffer* buffer = nearest(place);
  if (!buffer) return "far from every buffer";
  long long offset = (u8*)place - buffer->start, behind = offset - (long long)buffer->bytes;
  std::string whose = "a buffer of " + std::to_string(buffer->bytes) + " bytes";
  if (!buffer->live) whose += " that was given back";
  if (offset < 0) return std::to_string(-offset) + " bytes before the start of " + whose;
  if (behind >= 0) return std::to_string(behind) + " bytes behind the end of " + whose;
  return "at byte " + std::to_string(offset) + " of " + whose;
}

static void check_bytes(u8* begin, u8* end) {
  for (u8* place = begin; place < end; place++) {
    if (*place == SURROUNDING) continue;
    std::string where = relation(place);
    memset(begin, SURROUNDING, end - begin);
    fail("something was written outside a buffer: %s", where.c_str());
  }
}

void check_surroundings() {
  for (int i = 0; i < launch->operand_count; i++) {
    Buffer* buffer = nearest(launch->operands[i].begin);
    if (!buffer || !buffer->live) continue;
    check_bytes(buffer->pages + GUARD, buffer->start);
    check_bytes(buffer->start + buffer->bytes, buffer->pages + buffer->mapped - GUARD);
  }
}

}  // namespace emulator
