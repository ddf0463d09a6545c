// Checks of every access of a kernel that was compiled with hooks: inside what the launch was given,
// of memory that somebody wrote, and ordered: of two accesses to one byte, of which one writes, one
// must happen before the other, by the rules of CUDA.
//
// Within a block __syncthreads orders all threads, and __syncwarp those lanes that meet; shuffles and
// votes order nothing. Between blocks, and between threads that do not meet, only this does: one
// thread executes __threadfence() and then an atomic on some place; another one an atomic on that
// place, later, and then __threadfence(). What the first one did, or knew of, before its fence is
// then before what the second one does behind its own. Two atomics never disturb each other.
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>

#include "engine.h"

extern "C" {
extern emulator::Index emulator_block_size, emulator_grid_size;
void* emulator_dynamic();
}

namespace emulator {

// An access: by whom, after how many barriers of its block, how many steps of its own, and where in
// the code (0: there is none).
struct Stamp {
  u32 block;
  u32 thread : 10, epoch : 22;
  u32 clock : 31, atomic : 1;
  u32 place;
};

// The last accesses to a byte: the last write and read, and the last reads of another thread, and of
// another warp, than that one: whoever writes meets a read of somebody else.
struct Uses {
  Stamp write, read, by_another_thread, by_another_warp;
};

// Of four bytes, which are mostly used together.
struct Cell {
  u32 instance;  // of the launch or, for shared memory, of the block: what came before is over
  u32 split;     // where `apart` has those of each byte; 0: all have the same
  Uses uses;
};

// What is known to be before: of a block, all before a barrier, and of threads all before a clock.
struct Past {
  u32 epoch = 0;
  std::map<u32, u32> clocks;
};
typedef std::map<u32, Past> Knowledge;

struct Sync {  // of a thread
  u32 clock;
  u32 seen[WARP];      // of the lanes of its warp, before which clock it knows all
  Knowledge acquired;  // what it knows of other threads
  Knowledge pending;   // what it will know after a fence
  Knowledge released;  // what its atomics tell since its last fence
};

enum { SHARED = -1, ELSEWHERE = -2 };

struct Region {
  u8 *begin, *end;
  Cell* cells;
  u8* known;  // null: shared memory, of which `cells` say it
  bool written;
  int argument;  // or one of these
};

static std::vector<Sync> syncs;
static Knowledge of_block;  // what all its threads know
static std::map<const void*, Knowledge> places;  // what atomics have told there
static u32 epoch, instances, launch_instance, block_instance;
static std::vector<Region> regions;
static size_t last;  // the region of the last access
static u8 *base, *image_end;  // where the translation unit lies
static std::vector<Cell> shared_cells;
static std::vector<std::array<Uses, 4>> apart;

static size_t mapped(size_t bytes) { return (bytes / 4 + 2) * sizeof(Cell); }

Cell* new_cells(size_t bytes) {
  void* cells = mmap(nullptr, mapped(bytes), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return cells == MAP_FAILED ? nullptr : (Cell*)cells;
}

void free_cells(Cell* cells, size_t bytes) { munmap(cells, mapped(bytes)); }

// ---- what is before what

static void join(Knowledge& into, const Knowledge& from) {
  for (const auto& [block, past] : from) {
    Past& own = into[block];
    own.epoch = std::max(own.epoch, past.epoch);
    for (auto [thread, clock] : past.clocks) own.clocks[thread] = std::max(own.clocks[thread], clock);
  }
}

static bool covers(const Knowledge& knowledge, const Stamp& stamp) {
  auto past = knowledge.find(stamp.block);
  if (past == knowledge.end()) return false;
  if (stamp.epoch < past->second.epoch) return true;
  auto clock = past->second.clocks.find(stamp.thread);
  return clock != past->second.clocks.end() && stamp.clock < clock->second;
}

static bool before(const Stamp& stamp, const Thread& thread) {
  if (stamp.block == (u32)block_number) {
    if (stamp.thread == thread.number || stamp.epoch != epoch) return true;
    if (stamp.thread / WARP == thread.number / WARP &&
        stamp.clock < syncs[thread.number].seen[stamp.thread % WARP]) {
      return true;
    }
  }
  return covers(syncs[thread.number].acquired, stamp) || covers(of_block, stamp);
}

void order_block() {
  epoch++;
  for (Sync& sync : syncs) {
    if (sync.acquired.empty()) continue;
    join(of_block, sync.acquired);
    sync.acquired.clear();
  }
}

void order_warp(u32 warp, u32 lanes) {
  u32 seen[WARP] = {};
  Knowledge acquired;
  Sync* first = &syncs[warp * WARP];
  for (u32 rest = lanes; rest; rest &= rest - 1) {
    Sync& sync = first[__builtin_ctz(rest)];
    sync.seen[__builtin_ctz(rest)] = ++sync.clock;
    for (u32 lane = 0; lane < WARP; lane++) seen[lane] = std::max(seen[lane], sync.seen[lane]);
    if (!sync.acquired.empty()) join(acquired, sync.acquired);
  }
  for (u32 rest = lanes; rest; rest &= rest - 1) {
    Sync& sync = first[__builtin_ctz(rest)];
    std::copy(seen, seen + WARP, sync.seen);
    sync.acquired = acquired;
  }
}

extern "C" void emulator_fence(int scope) {
  if (!launch->checked || scope == 0) return;  // one of a block orders nothing that is followed here
  u32 number = current->number;
  Sync& sync = syncs[number];
  join(sync.acquired, sync.pending);
  sync.pending.clear();
  sync.released = of_block;
  join(sync.released, sync.acquired);
  Past& own = sync.released[(u32)block_number];
  own.epoch = epoch;
  for (u32 lane = 0; lane < WARP; lane++) {
    if (sync.seen[lane]) own.clocks[number / WARP * WARP + lane] = sync.seen[lane];
  }
  own.clocks[number] = ++sync.clock;
}

// ---- accesses

enum Way { READ, WRITE, ATOMIC };
static const char* const WAYS[] = {"reads", "writes", "uses atomically"};

static std::string at(u32 place) {
  char text[32];
  snprintf(text, sizeof text, "<pc %x>", place);
  return text;
}

static std::string name(const Region& region) {
  return region.argument == SHARED      ? "shared memory"
         : region.argument == ELSEWHERE ? "a buffer"
                                        : "argument " + std::to_string(region.argument);
}

static std::string offset_in(const Region& region, const u8* place) {
  return "byte " + std::to_string(place - region.begin) + " of " + name(region);
}

static std::string who(const Stamp& stamp) {
  Index grid = emulator_grid_size, size = emulator_block_size;
  u32 b = stamp.block, t = stamp.thread;
  char text[128];
  snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u)", b % grid.x,
           b / grid.x % grid.y, b / grid.x / grid.y, t % size.x, t / size.x % size.y,
           t / size.x / size.y);
  return text;
}

[[noreturn]] static void outside(const u8* place, u32 bytes, Way way, u32 pc) {
  const Region* nearby = nullptr;
  size_t distance = ~(size_t)0;
  for (const Region& region : regions) {
    bool inside = place >= region.begin && place + bytes <= region.end;
    size_t apart = place < region.begin ? region.begin - place
                   : place >= region.end ? place - region.end : 0;
    if (inside && way != READ) {
      fail("%s, which is const, is written; %s; %s", offset_in(region, place).c_str(),
           here().c_str(), at(pc).c_str());
    }
    if (apart < distance) distance = apart, nearby = &region;
  }
  std::string where = "outside of what the kernel is given";
  if (nearby && distance < 1 << 20) {
    size_t size = nearby->end - nearby->begin;
    where = place < nearby->begin ? std::to_string(nearby->begin - place) + " bytes before the start"
                                  : std::to_string(distance) + " bytes behind the end";
    where += " of " + name(*nearby) + " of " + std::to_string(size) + " bytes";
  }
  fail("access out of bounds: it %s %u bytes %s (%s); %s; %s", WAYS[way], bytes, where.c_str(),
       relation(place).c_str(), here().c_str(), at(pc).c_str());
}

static bool is_size(const u8* place) {  // blockDim or gridDim
  auto within = [&](const Index& size) {
    return place >= (const u8*)&size && place < (const u8*)(&size + 1);
  };
  return within(emulator_block_size) || within(emulator_grid_size);
}

// Where an access lies; null: in memory that is not followed, its own stack and what the translation
// unit declares, such as tables of constants.
static const Region* region_of(const u8* place, u32 bytes, Way way, u32 pc) {
  auto fits = [&](const Region& region) {
    return place >= region.begin && place + bytes <= region.end && (way == READ || region.written);
  };
  if (last < regions.size() && fits(regions[last])) return &regions[last];
  if (on_stack(place) || is_size(place)) return nullptr;
  for (size_t i = 0; i < regions.size(); i++) {
    if (fits(regions[i])) return &regions[last = i];
  }
  Buffer* buffer = nearest(place);
  if (buffer && buffer->live && launch->anywhere && place >= buffer->start &&
      place + bytes <= buffer->start + buffer->bytes) {
    regions.push_back({buffer->start, buffer->start + buffer->bytes, buffer->cells, buffer->known,
                       true, ELSEWHERE});
    return &regions.back();
  }
  bool partly = false;
  for (const Region& region : regions) partly |= place < region.end + 64 && place + bytes > region.begin;
  if (partly || place < base || place >= image_end) outside(place, bytes, way, pc);
  return nullptr;
}

[[noreturn]] static void race(const Region& region, const u8* place, const Stamp& stamp, bool wrote,
                              Way way, u32 pc) {
  fail("a race for %s: %s %s it, %s; and %s %s it, %s; nothing orders the two",
       offset_in(region, place).c_str(), who(stamp).c_str(),
       WAYS[stamp.atomic ? ATOMIC : wrote ? WRITE : READ], at(stamp.place).c_str(), here().c_str(),
       WAYS[way], at(pc).c_str());
}

static bool disturbs(const Stamp& stamp, const Stamp& self) {
  return stamp.place && !(stamp.atomic && self.atomic) && !before(stamp, *current);
}

// Notes an access, unless it disturbs an earlier one.
static void note(const Region& region, Uses& uses, const u8* place, const Stamp& self, Way way) {
  if (disturbs(uses.write, self)) race(region, place, uses.write, true, way, self.place);
  if (way == READ) {
    const Stamp& last_read = uses.read;
    bool of_this_block = last_read.block == self.block;
    if (!of_this_block || last_read.thread / WARP != self.thread / WARP) {
      uses.by_another_warp = last_read;
    }
    if (!of_this_block || last_read.thread != self.thread) uses.by_another_thread = last_read;
    uses.read = self;
    return;
  }
  for (const Stamp* read : {&uses.read, &uses.by_another_thread, &uses.by_another_warp}) {
    if (disturbs(*read, self)) race(region, place, *read, false, way, self.place);
  }
  uses.write = self;
}

static void check_known(const Region& region, const Uses& uses, const u8* place, u32 bytes, u32 pc) {
  for (u32 i = 0; i < bytes; i++) {
    bool known = region.known ? region.known[place + i - region.begin] : uses.write.place;
    if (known) continue;
    fail("%s is read, which nobody wrote; %s; %s", offset_in(region, place + i).c_str(),
         here().c_str(), at(pc).c_str());
  }
}

static void use(const Region& region, Uses& uses, const u8* place, u32 bytes, const Stamp& self,
                Way way) {
  if (way != WRITE) check_known(region, uses, place, bytes, self.place);
  note(region, uses, place, self, way);
  if (way != READ && region.known) memset(region.known + (place - region.begin), 1, bytes);
}

static void access(const void* address, u32 bytes, Way way, const void* caller) {
  if (!current) return;
  const u8 *place = (const u8*)address, *end = place + bytes;
  u32 pc = (u32)((u8*)caller - base);
  const Region* region = region_of(place, bytes, way, pc);
  if (!region || !region->cells) return;
  u32 instance = region->argument == SHARED ? block_instance : launch_instance;
  u32 clock = syncs[current->number].clock;
  Stamp self{(u32)block_number, current->number, epoch, clock, way == ATOMIC, pc};
  while (place < end) {
    Cell& cell = region->cells[(uintptr_t)place / 4 - (uintptr_t)region->begin / 4];
    if (cell.instance != instance) cell = Cell{instance, 0, {}};
    u32 byte = (uintptr_t)place % 4;
    if (!cell.split && !byte && end - place >= 4) {
      use(*region, cell.uses, place, 4, self, way);
      place += 4;
      continue;
    }
    if (!cell.split) {
      cell.split = (u32)apart.size();
      apart.push_back({cell.uses, cell.uses, cell.uses, cell.uses});
    }
    use(*region, apart[cell.split][byte], place, 1, self, way);
    place++;
  }
}

extern "C" void emulator_atomic(const void* place, u32 bytes, const void* caller) {
  if ((uintptr_t)place % bytes) {
    fail("misaligned access: an atomic of %u bytes %s; %s; %s", bytes, relation(place).c_str(),
         here().c_str(), counter(caller).c_str());
  }
  if (!launch->checked) return;
  yield();
  access(place, bytes, ATOMIC, caller);
  Sync& sync = syncs[current->number];
  auto told = places.find(place);
  if (told != places.end()) join(sync.pending, told->second);
  if (!sync.released.empty()) join(places[place], sync.released);
}

// ---- launches

// Adds shared memory, and returns the cells behind its own.
static Cell* add_section(u8* begin, u8* end, Cell* cells) {
  regions.push_back({begin, end, cells, nullptr, true, SHARED});
  return cells + (end - begin) / 4 + 2;
}

static void find_image() {
  Dl_info found;
  dladdr((void*)launch->entry, &found);
  base = image_end = (u8*)found.dli_fbase;
  const ElfW(Ehdr)* file = (const ElfW(Ehdr)*)base;
  const ElfW(Phdr)* parts = (const ElfW(Phdr)*)(base + file->e_phoff);
  for (int i = 0; i < file->e_phnum; i++) {
    if (parts[i].p_type != PT_LOAD) continue;
    image_end = std::max(image_end, base + parts[i].p_vaddr + parts[i].p_memsz);
  }
}

void begin_checks() {
  find_image();
  launch_instance = ++instances;
  regions.clear();
  places.clear();
  last = 0;
  size_t total = launch->dynamic;
  for (int i = 0; i < launch->section_count; i++) {
    total += launch->sections[i].end - launch->sections[i].begin;
  }
  shared_cells.assign(total / 4 + 2 * (launch->section_count + 1), Cell{});
  apart.assign(1, {});
  u8* dynamic = (u8*)emulator_dynamic();
  Cell* cells = add_section(dynamic, dynamic + launch->dynamic, shared_cells.data());
  for (int i = 0; i < launch->section_count; i++) {
    cells = add_section(launch->sections[i].begin, launch->sections[i].end, cells);
  }
  for (int i = 0; i < launch->operand_count; i++) {
    const Operand& operand = launch->operands[i];
    Buffer* buffer = nearest(operand.begin);
    bool followed = buffer && buffer->cells;
    size_t begin = followed ? operand.begin - buffer->start : 0;
    regions.push_back({operand.begin, operand.end, followed ? buffer->cells + begin / 4 : nullptr,
                       followed ? buffer->known + begin : nullptr, operand.written != 0,
                       (int)operand.argument});
  }
}

void begin_checks_of_block() {
  block_instance = ++instances;
  epoch = 0;
  of_block.clear();
  syncs.assign(threads.size(), Sync{});
}

// ---- hooks, which -fsanitize=thread puts before each access

#define CALLER __builtin_return_address(0)
#define HOOKS(n)                                                                           \
  void __tsan_read##n(void* p) { access(p, n, READ, CALLER); }                             \
  void __tsan_write##n(void* p) { access(p, n, WRITE, CALLER); }                           \
  void __tsan_unaligned_read##n(void* p) { access(p, n, READ, CALLER); }                   \
  void __tsan_unaligned_write##n(void* p) { access(p, n, WRITE, CALLER); }                 \
  void __tsan_volatile_read##n(void* p) { access(p, n, READ, CALLER); }                    \
  void __tsan_volatile_write##n(void* p) { access(p, n, WRITE, CALLER); }                  \
  void __tsan_unaligned_volatile_read##n(void* p) { access(p, n, READ, CALLER); }          \
  void __tsan_unaligned_volatile_write##n(void* p) { access(p, n, WRITE, CALLER); }
extern "C" {
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* p, size_t n) { access(p, (u32)n, READ, CALLER); }
void __tsan_write_range(void* p, size_t n) { access(p, (u32)n, WRITE, CALLER); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}

}  // namespace emulator
