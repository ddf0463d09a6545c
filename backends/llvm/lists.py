"""Lists: what unbounded loops save, one row a step, for the way back.

What the steps of one loop give to its lists lies side by side in rows, and rows lie in segments,
each as long as all before it; so lists grow without moving. A list is a pointer to its number of
elements, its last segment, the bytes of a row and the place in a row; a null pointer is an empty
one. Reading behind the end gives zeros. `backends.llvm.frames` writes the loops over them.

All of it lies in one region of address space that a call reserves and whose pages the system
provides when they are first touched; ends of loops give memory back by moving the region's end. A
module keeps one region between calls, whose pages are warm then.
"""

from __future__ import annotations

import os
import sys

FIRST = 4  # rows of the first segment
DISCARD = "lantern.discard"  # gives the region back to the system
TAKEN = "lantern.taken"  # the most of it that calls have taken so far
# A region begins with how much of it is taken, its bytes, the most that was taken, and where the
# frames of recursive calls begin, which lie at its end; and the most that was taken before pages
# were given back to the system.
START, OVER, BEFORE = 64, 24, 32
WAITING = 8  # frames may take this part of it: more calls inside of each other hardly ever end
# A segment begins with the one before it, the number of its first row, and that behind its last.
SEGMENT = 32
LIST = 32  # the bytes of a list: four words
SMALL = 1 << 22  # where pages become large: programs that save little touch little
MMAP_FLAGS = 0x1042 if sys.platform == "darwin" else 0x4022  # private, anonymous, not reserved
LARGE_PAGES = 14 if sys.platform == "linux" else 0  # advice to the system on pages
UNUSED = 4 if sys.platform == "linux" else 5


def limit() -> int:
    """The bytes that the lists of one call may take: three quarters of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


def kept() -> int:
    """The bytes that stay with a module between calls: an eighth of that, in whole pages."""
    return max(limit() // 8 // SMALL, 1) * SMALL


def runtime(width: int) -> str:
    """LLVM IR that keeps the region, and makes, ends and reads lists. ``width`` is the largest
    element's bytes, of zeros.

    ``@lantern.reserve(region, size)`` is a piece of the region, null if there is none;
    ``@lantern.node`` is the same for what is made often. ``@lantern.waiting(region, lowest)`` is
    how much frames take that reach down to an address; ``@lantern.touch`` notes how much was taken
    with them; ``@lantern.floor(region)`` is down to where they may reach.
    ``@lantern.segment(region, before, start, rows, stride)`` is a segment; ``@lantern.grow`` one
    for further rows, fewer where the region ends. ``@lantern.close(region, last, count, stride,
    column)`` makes a list. ``@lantern.below(list, i)`` and ``@lantern.above(list, i)`` say where
    element ``i`` and those before or behind it lie: at an address plus their number times a
    distance, down to a number, or up to before one.
    """
    return f"""
@lantern.kept = internal global ptr null
@lantern.zeros = internal constant [{max(width, 1)} x i8] zeroinitializer, align 64

declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @madvise(ptr, i64, i32)

define internal ptr @lantern.enter() {{
entry:
  %kept = atomicrmw xchg ptr @lantern.kept, ptr null acq_rel
  %none = icmp eq ptr %kept, null
  br i1 %none, label %make, label %found
make:
  %size = phi i64 [ {limit()}, %entry ], [ %half, %less ]
  %new = call ptr @mmap(ptr null, i64 %size, i32 3, i32 {MMAP_FLAGS}, i32 -1, i64 0)
  %failed = icmp eq ptr %new, inttoptr (i64 -1 to ptr)
  br i1 %failed, label %less, label %made
less:
  %half = lshr i64 %size, 1
  %some = icmp ugt i64 %half, {START}
  br i1 %some, label %make, label %end
made:
  %most = getelementptr i64, ptr %new, i64 1
  store i64 %size, ptr %most
  %large = icmp ugt i64 %size, {SMALL}
  br i1 %large, label %advise, label %found
advise:
  %behind = getelementptr i8, ptr %new, i64 {SMALL}
  %rest = sub i64 %size, {SMALL}
  call i32 @madvise(ptr %behind, i64 %rest, i32 {LARGE_PAGES})
  br label %found
found:
  %region = phi ptr [ %kept, %entry ], [ %new, %made ], [ %new, %advise ]
  store i64 {START}, ptr %region
  %size.at = getelementptr i64, ptr %region, i64 1
  %whole = load i64, ptr %size.at
  %over = getelementptr i8, ptr %region, i64 {OVER}
  store i64 %whole, ptr %over
  ret ptr %region
end:
  ret ptr null
}}

define internal void @lantern.leave(ptr %region) {{
  %missing = icmp eq ptr %region, null
  br i1 %missing, label %end, label %look
look:
  %most.at = getelementptr i64, ptr %region, i64 1
  %most = load i64, ptr %most.at
  %touched.at = getelementptr i64, ptr %region, i64 2
  %touched = load i64, ptr %touched.at
  %much = icmp ugt i64 %touched, {kept()}
  br i1 %much, label %trim, label %give
trim:
  %behind = getelementptr i8, ptr %region, i64 {kept()}
  %rest = sub i64 %most, {kept()}
  call i32 @madvise(ptr %behind, i64 %rest, i32 {UNUSED})
  %before.at = getelementptr i8, ptr %region, i64 {BEFORE}
  %before = load i64, ptr %before.at
  %highest = call i64 @llvm.umax.i64(i64 %before, i64 %touched)
  store i64 %highest, ptr %before.at
  store i64 0, ptr %touched.at
  br label %give
give:
  %swapped = cmpxchg ptr @lantern.kept, ptr null, ptr %region acq_rel monotonic
  %done = extractvalue {{ ptr, i1 }} %swapped, 1
  br i1 %done, label %end, label %unmap
unmap:
  call i32 @munmap(ptr %region, i64 %most)
  br label %end
end:
  ret void
}}

define void @{DISCARD}() {{
  %kept = atomicrmw xchg ptr @lantern.kept, ptr null acq_rel
  %none = icmp eq ptr %kept, null
  br i1 %none, label %end, label %unmap
unmap:
  %most.at = getelementptr i64, ptr %kept, i64 1
  %most = load i64, ptr %most.at
  call i32 @munmap(ptr %kept, i64 %most)
  br label %end
end:
  ret void
}}

define i64 @{TAKEN}() {{
  %kept = load ptr, ptr @lantern.kept
  %none = icmp eq ptr %kept, null
  br i1 %none, label %end, label %look
look:
  %touched.at = getelementptr i64, ptr %kept, i64 2
  %touched = load i64, ptr %touched.at
  %before.at = getelementptr i8, ptr %kept, i64 {BEFORE}
  %before = load i64, ptr %before.at
  %most = call i64 @llvm.umax.i64(i64 %touched, i64 %before)
  ret i64 %most
end:
  ret i64 0
}}

define internal ptr @lantern.reserve(ptr %region, i64 %size) noinline {{
  %missing = icmp eq ptr %region, null
  br i1 %missing, label %full, label %look
look:
  %taken = load i64, ptr %region
  %small = icmp ult i64 %size, 512
  %mask = select i1 %small, i64 15, i64 63
  %more = add i64 %taken, %mask
  %not = xor i64 %mask, -1
  %start = and i64 %more, %not
  %end = add i64 %start, %size
  %most.at = getelementptr i8, ptr %region, i64 {OVER}
  %most = load i64, ptr %most.at
  %fits = icmp ule i64 %end, %most
  %sound = icmp uge i64 %end, %start
  %possible = and i1 %fits, %sound
  br i1 %possible, label %take, label %full
take:
  store i64 %end, ptr %region
  %touched.at = getelementptr i64, ptr %region, i64 2
  %touched = load i64, ptr %touched.at
  %further = call i64 @llvm.umax.i64(i64 %touched, i64 %end)
  store i64 %further, ptr %touched.at
  %at = getelementptr i8, ptr %region, i64 %start
  ret ptr %at
full:
  ret ptr null
}}

define internal i64 @lantern.waiting(ptr %region, ptr %lowest) {{
  %most.at = getelementptr i64, ptr %region, i64 1
  %most = load i64, ptr %most.at
  %place = ptrtoint ptr %lowest to i64
  %zero = ptrtoint ptr %region to i64
  %below = sub i64 %place, %zero
  %frames = sub i64 %most, %below
  ret i64 %frames
}}

define internal void @lantern.touch(ptr %region, ptr %lowest) {{
  %taken = load i64, ptr %region
  %frames = call i64 @lantern.waiting(ptr %region, ptr %lowest)
  %both = add i64 %taken, %frames
  %touched.at = getelementptr i64, ptr %region, i64 2
  %touched = load i64, ptr %touched.at
  %further = call i64 @llvm.umax.i64(i64 %touched, i64 %both)
  store i64 %further, ptr %touched.at
  ret void
}}

define internal i64 @lantern.floor(ptr %region) {{
  %most.at = getelementptr i64, ptr %region, i64 1
  %most = load i64, ptr %most.at
  %part = udiv i64 %most, {WAITING}
  %floor = sub i64 %most, %part
  ret i64 %floor
}}

define internal ptr @lantern.node(ptr %region, i64 %size) alwaysinline {{
  %missing = icmp eq ptr %region, null
  br i1 %missing, label %full, label %look
look:
  %taken = load i64, ptr %region
  %more = add i64 %taken, 7
  %start = and i64 %more, -8
  %end = add i64 %start, %size
  %over = getelementptr i8, ptr %region, i64 {OVER}
  %most = load i64, ptr %over
  %fits = icmp ule i64 %end, %most
  br i1 %fits, label %take, label %full
take:
  store i64 %end, ptr %region
  %at = getelementptr i8, ptr %region, i64 %start
  ret ptr %at
full:
  ret ptr null
}}

define internal ptr @lantern.segment(ptr %region, ptr %before, i64 %start, i64 %rows, i64 %stride)
    noinline {{
  %bytes = mul i64 %rows, %stride
  %size = add i64 %bytes, {SEGMENT}
  %new = call ptr @lantern.reserve(ptr %region, i64 %size)
  %full = icmp eq ptr %new, null
  br i1 %full, label %end, label %write
write:
  store ptr %before, ptr %new
  %start.at = getelementptr i64, ptr %new, i64 1
  store i64 %start, ptr %start.at
  %behind = add i64 %start, %rows
  %behind.at = getelementptr i64, ptr %new, i64 2
  store i64 %behind, ptr %behind.at
  br label %end
end:
  ret ptr %new
}}

define internal ptr @lantern.grow(ptr %region, ptr %before, i64 %start, i64 %stride)
    noinline cold {{
  %wanted = call i64 @llvm.umax.i64(i64 %start, i64 {FIRST})
  %new = call ptr @lantern.segment(ptr %region, ptr %before, i64 %start, i64 %wanted, i64 %stride)
  %full = icmp eq ptr %new, null
  br i1 %full, label %less, label %end
less:
  %missing = icmp eq ptr %region, null
  br i1 %missing, label %end, label %look
look:
  %taken = load i64, ptr %region
  %most.at = getelementptr i8, ptr %region, i64 {OVER}
  %most = load i64, ptr %most.at
  %rest = sub i64 %most, %taken
  %usable = call i64 @llvm.usub.sat.i64(i64 %rest, i64 {SEGMENT + 64})
  %rows = udiv i64 %usable, %stride
  %none = icmp eq i64 %rows, 0
  br i1 %none, label %end, label %take
take:
  %last = call ptr @lantern.segment(ptr %region, ptr %before, i64 %start, i64 %rows, i64 %stride)
  br label %end
end:
  %made = phi ptr [ %new, %0 ], [ null, %less ], [ null, %look ], [ %last, %take ]
  ret ptr %made
}}

define internal ptr @lantern.close(ptr %region, ptr %last, i64 %count, i64 %stride, i64 %column)
    noinline {{
  %none = icmp sle i64 %count, 0
  br i1 %none, label %end, label %look
look:
  %start.at = getelementptr i64, ptr %last, i64 1
  %start = load i64, ptr %start.at
  %behind.at = getelementptr i64, ptr %last, i64 2
  %behind = load i64, ptr %behind.at
  %place = ptrtoint ptr %last to i64
  %zero = ptrtoint ptr %region to i64
  %first = sub i64 %place, %zero
  %rows = sub i64 %behind, %start
  %bytes = mul i64 %rows, %stride
  %data = add i64 %first, {SEGMENT}
  %reach = add i64 %data, %bytes
  %taken = load i64, ptr %region
  %top = icmp eq i64 %taken, %reach
  br i1 %top, label %trim, label %make
trim:
  %used = sub i64 %count, %start
  %size = mul i64 %used, %stride
  %end.used = add i64 %data, %size
  store i64 %end.used, ptr %region
  store i64 %count, ptr %behind.at
  br label %make
make:
  %list = call ptr @lantern.reserve(ptr %region, i64 {LIST})
  %full = icmp eq ptr %list, null
  br i1 %full, label %end, label %write
write:
  store i64 %count, ptr %list
  %last.at = getelementptr i64, ptr %list, i64 1
  store ptr %last, ptr %last.at
  %stride.at = getelementptr i64, ptr %list, i64 2
  store i64 %stride, ptr %stride.at
  %column.at = getelementptr i64, ptr %list, i64 3
  store i64 %column, ptr %column.at
  br label %end
end:
  %made = phi ptr [ null, %0 ], [ null, %make ], [ %list, %write ]
  ret ptr %made
}}

{_reader("below", "%count", "%start")}

{_reader("above", str(2**63 - 1), "%end")}
"""


def _reader(name: str, behind: str, found: str) -> str:
    """The function that finds an element of a list and its neighbours on one side; the numbers that
    it gives are where those behind the end, and those of a segment, end or begin."""
    result = "{ ptr, i64, i64 }"
    return f"""define internal {result} @lantern.{name}(ptr %list, i64 %i) noinline cold {{
  %none = icmp eq ptr %list, null
  br i1 %none, label %behind, label %look
look:
  %length = load i64, ptr %list
  %inside = icmp slt i64 %i, %length
  br i1 %inside, label %begin, label %behind
begin:
  %last.at = getelementptr i64, ptr %list, i64 1
  %last = load ptr, ptr %last.at
  br label %search
search:
  %segment = phi ptr [ %last, %begin ], [ %before, %back ]
  %start.at = getelementptr i64, ptr %segment, i64 1
  %start = load i64, ptr %start.at
  %there = icmp sle i64 %start, %i
  br i1 %there, label %found, label %back
back:
  %before = load ptr, ptr %segment
  br label %search
found:
  %end.at = getelementptr i64, ptr %segment, i64 2
  %segment.end = load i64, ptr %end.at
  %end = call i64 @llvm.smin.i64(i64 %segment.end, i64 %length)
  %stride.at = getelementptr i64, ptr %list, i64 2
  %stride = load i64, ptr %stride.at
  %column.at = getelementptr i64, ptr %list, i64 3
  %column = load i64, ptr %column.at
  %skipped = mul i64 %start, %stride
  %data = getelementptr i8, ptr %segment, i64 {SEGMENT}
  %offset = sub i64 %column, %skipped
  %base = getelementptr i8, ptr %data, i64 %offset
  br label %end.found
behind:
  %count = phi i64 [ 0, %0 ], [ %length, %look ]
  br label %end.found
end.found:
  %r.base = phi ptr [ %base, %found ], [ @lantern.zeros, %behind ]
  %r.step = phi i64 [ %stride, %found ], [ 0, %behind ]
  %r.bound = phi i64 [ {found}, %found ], [ {behind}, %behind ]
  %a = insertvalue {result} undef, ptr %r.base, 0
  %b = insertvalue {result} %a, i64 %r.step, 1
  %c = insertvalue {result} %b, i64 %r.bound, 2
  ret {result} %c
}}"""
