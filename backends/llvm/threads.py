"""The native side of the pool (`backends.llvm.pool`): how a job is published and its parts taken.

A worker is a thread in a native loop: it takes parts of the current job, spins for a short time
when there are none, and then sleeps in the kernel until a job is published.

A pool is a block of memory whose address a program gets at each call (`LAYOUT`). The first word
holds the number of the job and how many of its parts nobody has taken; taking one is a compare and
exchange of that word, so a worker that comes late can never mistake one job for another. The thread
that publishes a job takes parts too, and waits at the end until all are done. One call holds the
pool; a call that finds it held, or gets a null pointer, runs the parts one after another.

The calling thread is pinned to its core while its call holds the pool. On Linux threads sleep in a
futex. Elsewhere they nap, and nothing is pinned; that has been run on Linux only.
"""

from __future__ import annotations

import platform
import sys

LINUX = sys.platform == "linux"
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), 0) if LINUX else 0
PATIENCE = 10  # how much longer a worker spins while a call holds the pool
MASK = 128  # bytes of a set of cores
# Where things lie in a pool. What one thread writes while another spins has its own cache line.
LAYOUT = {
    "job": 0,  # i64: the job's number in the upper half, the parts not taken in the lower
    "pending": 64,  # i32: parts not done
    "waiting": 68,  # i32: whether the caller sleeps until none is pending
    "function": 128,  # void (*)(void *given, int64_t part)
    "given": 136,
    "parts": 144,  # i32
    "held": 192,  # i32: whether a call holds the pool
    "stop": 196,  # i32
    "sleeping": 256,  # i32: how many workers sleep
    "spins": 320,  # i32: how often a thread looks before it sleeps
    "core": 384,  # the set of cores that the calling thread is pinned to
}
SIZE = 512
ERROR = 4  # words in which a part that may fail says whether it did, and the details of the error
CODE = 2  # the detail that tells the operation, where it is not the same for all parts


def field(name: str, at: str) -> str:
    """The line that gives the address of a field of ``%pool`` a name."""
    return f"{at} = getelementptr i8, ptr %pool, i64 {LAYOUT[name]}"


def pause() -> str:
    """The instruction of a thread that spins."""
    known = {"x86_64": "llvm.x86.sse2.pause()", "aarch64": "llvm.aarch64.hint(i32 1)"}
    name = known.get(platform.machine())
    return f"call void @{name}" if name else "fence seq_cst"


def sleep(word: str, value: str, futex: int) -> str:
    """Sleep while a word has a value, or just for some time; may wake for no reason."""
    if not futex:
        return "call i32 @usleep(i32 100)"
    call = f"call i64 (i64, ...) @syscall(i64 {futex}, ptr {word}, i32 128, i32 {value}, ptr null"
    return f"{call}, ptr null, i32 0)"


def wake(word: str, count: str, futex: int) -> str:
    """Wake threads that sleep on a word."""
    if not futex:
        return ""
    call = f"call i64 (i64, ...) @syscall(i64 {futex}, ptr {word}, i32 129, i32 {count}, ptr null"
    return f"{call}, ptr null, i32 0)"


def take(futex: int) -> str:
    """The function that runs one part of the current job, if there is one that nobody has taken."""
    return f"""
declare i64 @syscall(i64, ...)
declare i32 @usleep(i32)

define internal i1 @lantern.take(ptr %pool) {{
entry:
  {field("job", "%job")}
  {field("function", "%function.at")}
  {field("given", "%given.at")}
  {field("parts", "%parts.at")}
  br label %look
look:
  %word = load atomic i64, ptr %job seq_cst, align 8
  %left = and i64 %word, 4294967295
  %none = icmp eq i64 %left, 0
  br i1 %none, label %nothing, label %try
nothing:
  ret i1 false
try:
  %function = load atomic ptr, ptr %function.at monotonic, align 8
  %given = load atomic ptr, ptr %given.at monotonic, align 8
  %parts = load atomic i32, ptr %parts.at monotonic, align 4
  %less = sub i64 %word, 1
  %exchanged = cmpxchg ptr %job, i64 %word, i64 %less seq_cst seq_cst
  %taken = extractvalue {{ i64, i1 }} %exchanged, 1
  br i1 %taken, label %run, label %look
run:
  %count = zext i32 %parts to i64
  %part = sub i64 %count, %left
  call void %function(ptr %given, i64 %part)
  {field("pending", "%pending")}
  %before = atomicrmw sub ptr %pending, i32 1 seq_cst
  %last = icmp eq i32 %before, 1
  br i1 %last, label %done, label %ran
done:
  {field("waiting", "%waiting.at")}
  %waiting = load atomic i32, ptr %waiting.at seq_cst, align 4
  %sleeps = icmp ne i32 %waiting, 0
  br i1 %sleeps, label %tell, label %ran
tell:
  {wake("%pending", "1", futex)}
  br label %ran
ran:
  ret i1 true
}}
"""


def worker(futex: int) -> str:
    """The module of a worker: its loop, a function that ends it, and one that spins, to measure how
    long that takes.

    Args:
        futex: the number of the system call; 0 if there is none.
    """
    return f"""{take(futex)}
define void @spin(i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  {pause()}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %end
end:
  ret void
}}

define void @work(ptr %pool) {{
entry:
  {field("job", "%job")}
  %number = getelementptr i8, ptr %job, i64 4
  {field("sleeping", "%sleeping")}
  {field("stop", "%stop.at")}
  {field("spins", "%spins.at")}
  {field("held", "%held.at")}
  %spins.idle = load i32, ptr %spins.at
  %spins.held = mul i32 %spins.idle, {PATIENCE}
  br label %look
look:
  %idle = phi i32 [ 0, %entry ], [ %idle.next, %spin ], [ 0, %take ], [ 0, %awake ]
  %word = load atomic i64, ptr %job seq_cst, align 8
  %left = and i64 %word, 4294967295
  %some = icmp ne i64 %left, 0
  br i1 %some, label %take, label %rest
take:
  call i1 @lantern.take(ptr %pool)
  br label %look
rest:
  %stop = load atomic i32, ptr %stop.at seq_cst, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %end, label %stay
stay:
  %held = load atomic i32, ptr %held.at monotonic, align 4
  %used = icmp ne i32 %held, 0
  %spins = select i1 %used, i32 %spins.held, i32 %spins.idle
  %patient = icmp ult i32 %idle, %spins
  br i1 %patient, label %spin, label %sleep
spin:
  {pause()}
  %idle.next = add i32 %idle, 1
  br label %look
sleep:
  atomicrmw add ptr %sleeping, i32 1 seq_cst
  %again = load atomic i64, ptr %job seq_cst, align 8
  %now = and i64 %again, 4294967295
  %halt = load atomic i32, ptr %stop.at seq_cst, align 4
  %wide = zext i32 %halt to i64
  %reason = or i64 %now, %wide
  %quiet = icmp eq i64 %reason, 0
  br i1 %quiet, label %nap, label %awake
nap:
  %high = lshr i64 %again, 32
  %seen = trunc i64 %high to i32
  {sleep("%number", "%seen", futex)}
  br label %awake
awake:
  atomicrmw sub ptr %sleeping, i32 1 seq_cst
  br label %look
end:
  ret void
}}

define void @halt(ptr %pool) {{
entry:
  {field("stop", "%stop")}
  store atomic i32 1, ptr %stop seq_cst, align 4
  {field("job", "%job")}
  atomicrmw add ptr %job, i64 4294967296 seq_cst
  %number = getelementptr i8, ptr %job, i64 4
  {wake("%number", "2147483647", futex)}
  ret void
}}
{declared()}
"""


def declared() -> str:
    """The prototype of what a thread that spins calls."""
    return {
        "x86_64": "declare void @llvm.x86.sse2.pause()",
        "aarch64": "declare void @llvm.aarch64.hint(i32)",
    }.get(platform.machine(), "")


def runtime(futex: int = FUTEX) -> str:
    """What a program needs to run parts on a pool.

    ``@lantern.hold(pool, saved)`` gives the pool to this call and pins the thread; it returns null
    if there is no pool, or another call holds it. ``@lantern.release(pool, saved)`` undoes that.
    ``@lantern.parallel(pool, function, given, parts)`` runs ``function(given, part)`` once for each
    part, and returns when all have run. ``@lantern.failed(errors, parts, error)`` says whether a
    part has failed, and gives the error of the first that has.
    """
    pin = [
        f"  call i32 @sched_getaffinity(i32 0, i64 {MASK}, ptr %saved)",
        f"  call i32 @sched_setaffinity(i32 0, i64 {MASK}, ptr %core)",
    ]
    unpin = [f"  call i32 @sched_setaffinity(i32 0, i64 {MASK}, ptr %saved)"]
    if not LINUX:
        pin = unpin = []
    lines = "\n".join
    return f"""{take(futex)}
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)

define internal ptr @lantern.hold(ptr %pool, ptr %saved) noinline {{
entry:
  %missing = icmp eq ptr %pool, null
  br i1 %missing, label %without, label %ask
ask:
  {field("held", "%held")}
  %exchanged = cmpxchg ptr %held, i32 0, i32 1 seq_cst seq_cst
  %free = extractvalue {{ i32, i1 }} %exchanged, 1
  br i1 %free, label %with, label %without
with:
  {field("core", "%core")}
  call void @llvm.memset.p0.i64(ptr %saved, i8 0, i64 {MASK}, i1 false)
{lines(pin)}
  ret ptr %pool
without:
  ret ptr null
}}

define internal void @lantern.release(ptr %pool, ptr %saved) noinline {{
entry:
  %missing = icmp eq ptr %pool, null
  br i1 %missing, label %end, label %give
give:
{lines(unpin)}
  {field("held", "%held")}
  store atomic i32 0, ptr %held seq_cst, align 4
  br label %end
end:
  ret void
}}

define internal i1 @lantern.failed(ptr %errors, i64 %parts, ptr %error) noinline {{
entry:
  br label %look
look:
  %part = phi i64 [ 0, %entry ], [ %part.next, %next ]
  %at = getelementptr [{ERROR} x i64], ptr %errors, i64 %part
  %flag = load i64, ptr %at
  %bad = icmp ne i64 %flag, 0
  br i1 %bad, label %tell, label %next
next:
  %part.next = add i64 %part, 1
  %more = icmp ult i64 %part.next, %parts
  br i1 %more, label %look, label %end
tell:
  %detail = getelementptr i64, ptr %at, i64 1
  call void @llvm.memcpy.p0.p0.i64(ptr %error, ptr %detail, i64 {8 * (ERROR - 1)}, i1 false)
  br label %end
end:
  ret i1 %bad
}}

define internal void @lantern.parallel(ptr %pool, ptr %function, ptr %given, i32 %parts) noinline {{
entry:
  %missing = icmp eq ptr %pool, null
  br i1 %missing, label %alone, label %publish
alone:
  %part = phi i64 [ 0, %entry ], [ %part.next, %alone ]
  call void %function(ptr %given, i64 %part)
  %part.next = add i64 %part, 1
  %count = zext i32 %parts to i64
  %more = icmp ult i64 %part.next, %count
  br i1 %more, label %alone, label %end
publish:
  {field("job", "%job")}
  {field("pending", "%pending.at")}
  {field("waiting", "%waiting.at")}
  {field("function", "%function.at")}
  {field("given", "%given.at")}
  {field("parts", "%parts.at")}
  {field("sleeping", "%sleeping.at")}
  {field("spins", "%spins.at")}
  %spins = load i32, ptr %spins.at
  store atomic ptr %function, ptr %function.at monotonic, align 8
  store atomic ptr %given, ptr %given.at monotonic, align 8
  store atomic i32 %parts, ptr %parts.at monotonic, align 4
  store atomic i32 %parts, ptr %pending.at monotonic, align 4
  store atomic i32 0, ptr %waiting.at monotonic, align 4
  %old = load atomic i64, ptr %job monotonic, align 8
  %number = lshr i64 %old, 32
  %number.next = add i64 %number, 1
  %high = shl i64 %number.next, 32
  %low = zext i32 %parts to i64
  %word = or i64 %high, %low
  store atomic i64 %word, ptr %job seq_cst, align 8
  %sleeping = load atomic i32, ptr %sleeping.at seq_cst, align 4
  %asleep = icmp ne i32 %sleeping, 0
  br i1 %asleep, label %call, label %take
call:
  %number.at = getelementptr i8, ptr %job, i64 4
  %others = sub i32 %parts, 1
  {wake("%number.at", "%others", futex)}
  br label %take
take:
  %took = call i1 @lantern.take(ptr %pool)
  br i1 %took, label %take, label %wait
wait:
  %idle = phi i32 [ 0, %take ], [ %idle.next, %spin ], [ 0, %nap ], [ 0, %sleep ]
  %pending = load atomic i32, ptr %pending.at seq_cst, align 4
  %done = icmp eq i32 %pending, 0
  br i1 %done, label %end, label %stay
stay:
  %patient = icmp ult i32 %idle, %spins
  br i1 %patient, label %spin, label %sleep
spin:
  {pause()}
  %idle.next = add i32 %idle, 1
  br label %wait
sleep:
  store atomic i32 1, ptr %waiting.at seq_cst, align 4
  %rest = load atomic i32, ptr %pending.at seq_cst, align 4
  %some = icmp ne i32 %rest, 0
  br i1 %some, label %nap, label %wait
nap:
  {sleep("%pending.at", "%rest", futex)}
  br label %wait
end:
  ret void
}}
{declared()}
"""
