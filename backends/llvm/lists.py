"""Lists: what unbounded loops save, one element a step, for the way back.

A list is a pointer to its count and to its segments, each twice as long as the one before; so it
grows without moving, and an element is found by its number. A null pointer is an empty list.
Reading behind the end gives zeros.

All of it lies in one region of address space that a call reserves and whose pages the system
provides when they are first touched; ends of loops give memory back by moving the region's end. A
module keeps one region between calls, whose pages are warm then.
"""

from __future__ import annotations

import os
import sys

FIRST = 16  # elements of the first segment
SEGMENTS = 40
DISCARD = "lantern.discard"  # gives the region back to the system
HEADER = 8 * (1 + SEGMENTS)
# A region begins with how much of it is taken, and the most that may be.
START = 64
MMAP_FLAGS = 0x1042 if sys.platform == "darwin" else 0x4022  # private, anonymous, not reserved


def limit() -> int:
    """The bytes that the lists of one call may take: three quarters of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


def runtime(width: int) -> str:
    """LLVM IR that finds an element of a list, makes room for one, and makes a list; and, behind
    the whole program, keeps the region. ``width`` is the largest element's bytes, of zeros."""
    return f"""
@lantern.kept = internal global ptr null
@lantern.zeros = internal constant [{max(width, 1)} x i8] zeroinitializer, align 64

declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)

define internal ptr @lantern.enter() {{
entry:
  %kept = atomicrmw xchg ptr @lantern.kept, ptr null acq_rel
  %none = icmp eq ptr %kept, null
  br i1 %none, label %make, label %found
make:
  %new = call ptr @mmap(ptr null, i64 {limit()}, i32 3, i32 {MMAP_FLAGS}, i32 -1, i64 0)
  %failed = icmp eq ptr %new, inttoptr (i64 -1 to ptr)
  br i1 %failed, label %end, label %found
found:
  %region = phi ptr [ %kept, %entry ], [ %new, %make ]
  store i64 {START}, ptr %region
  ret ptr %region
end:
  ret ptr null
}}

define internal void @lantern.leave(ptr %region) {{
  %missing = icmp eq ptr %region, null
  br i1 %missing, label %end, label %give
give:
  %swapped = cmpxchg ptr @lantern.kept, ptr null, ptr %region acq_rel monotonic
  %done = extractvalue {{ ptr, i1 }} %swapped, 1
  br i1 %done, label %end, label %unmap
unmap:
  call i32 @munmap(ptr %region, i64 {limit()})
  br label %end
end:
  ret void
}}

define void @{DISCARD}() {{
  %kept = atomicrmw xchg ptr @lantern.kept, ptr null acq_rel
  %none = icmp eq ptr %kept, null
  br i1 %none, label %end, label %unmap
unmap:
  call i32 @munmap(ptr %kept, i64 {limit()})
  br label %end
end:
  ret void
}}

define internal ptr @lantern.reserve(ptr %region, i64 %size) noinline {{
  %missing = icmp eq ptr %region, null
  br i1 %missing, label %full, label %look
look:
  %taken = load i64, ptr %region
  %more = add i64 %size, 63
  %whole = and i64 %more, -64
  %end = add i64 %taken, %whole
  %fits = icmp ule i64 %end, {limit()}
  br i1 %fits, label %take, label %full
take:
  store i64 %end, ptr %region
  %at = getelementptr i8, ptr %region, i64 %taken
  ret ptr %at
full:
  ret ptr null
}}

define internal ptr @lantern.list(ptr %region) {{
  %list = call ptr @lantern.reserve(ptr %region, i64 {HEADER})
  %none = icmp eq ptr %list, null
  br i1 %none, label %end, label %clear
clear:
  call void @llvm.memset.p0.i64(ptr %list, i8 0, i64 {HEADER}, i1 false)
  br label %end
end:
  ret ptr %list
}}

define internal {{ i64, i64 }} @lantern.place(i64 %i) alwaysinline {{
  %block = lshr i64 %i, {FIRST.bit_length() - 1}
  %above = add i64 %block, 1
  %zeros = call i64 @llvm.ctlz.i64(i64 %above, i1 true)
  %segment = sub i64 63, %zeros
  %before = shl i64 {FIRST}, %segment
  %start = sub i64 %before, {FIRST}
  %offset = sub i64 %i, %start
  %a = insertvalue {{ i64, i64 }} undef, i64 %segment, 0
  %b = insertvalue {{ i64, i64 }} %a, i64 %offset, 1
  ret {{ i64, i64 }} %b
}}

define internal ptr @lantern.at(ptr %list, i64 %i, i64 %width) alwaysinline {{
  %none = icmp eq ptr %list, null
  br i1 %none, label %behind, label %look
look:
  %count = load i64, ptr %list
  %inside = icmp ult i64 %i, %count
  br i1 %inside, label %find, label %behind
find:
  %place = call {{ i64, i64 }} @lantern.place(i64 %i)
  %segment = extractvalue {{ i64, i64 }} %place, 0
  %offset = extractvalue {{ i64, i64 }} %place, 1
  %number = add i64 %segment, 1
  %slot = getelementptr i64, ptr %list, i64 %number
  %data = load ptr, ptr %slot
  %bytes = mul i64 %offset, %width
  %at = getelementptr i8, ptr %data, i64 %bytes
  ret ptr %at
behind:
  ret ptr @lantern.zeros
}}

define internal ptr @lantern.push(ptr %region, ptr %list, i64 %i, i64 %width) alwaysinline {{
  %next = add i64 %i, 1
  store i64 %next, ptr %list
  %place = call {{ i64, i64 }} @lantern.place(i64 %i)
  %segment = extractvalue {{ i64, i64 }} %place, 0
  %offset = extractvalue {{ i64, i64 }} %place, 1
  %number = add i64 %segment, 1
  %slot = getelementptr i64, ptr %list, i64 %number
  %starts = icmp eq i64 %offset, 0
  br i1 %starts, label %grow, label %there
grow:
  %length = shl i64 {FIRST}, %segment
  %size = mul i64 %length, %width
  %new = call ptr @lantern.reserve(ptr %region, i64 %size)
  store ptr %new, ptr %slot
  %full = icmp eq ptr %new, null
  br i1 %full, label %none, label %there
there:
  %data = load ptr, ptr %slot
  %bytes = mul i64 %offset, %width
  %at = getelementptr i8, ptr %data, i64 %bytes
  ret ptr %at
none:
  ret ptr null
}}

define internal i1 @lantern.fill(ptr %region, ptr %list, i64 %count, i64 %width) {{
entry:
  store i64 %count, ptr %list
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %more, label %done
more:
  %segment = phi i64 [ 0, %entry ], [ %following, %kept ]
  %start = phi i64 [ 0, %entry ], [ %end, %kept ]
  %length = shl i64 {FIRST}, %segment
  %size = mul i64 %length, %width
  %new = call ptr @lantern.reserve(ptr %region, i64 %size)
  %full = icmp eq ptr %new, null
  br i1 %full, label %failed, label %kept
kept:
  %following = add i64 %segment, 1
  %slot = getelementptr i64, ptr %list, i64 %following
  store ptr %new, ptr %slot
  %end = add i64 %start, %length
  %enough = icmp sge i64 %end, %count
  br i1 %enough, label %done, label %more
done:
  ret i1 false
failed:
  ret i1 true
}}
"""
