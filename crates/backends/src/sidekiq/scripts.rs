//! What happens within Redis in one step.
//!
//! A script that fails half-way is not undone. Each therefore adds before it removes, so that full memory, which refuses
//! what adds, loses nothing; and each can be run again.

use std::sync::LazyLock;

use redis::Script;

/// Takes up to so many jobs into the hand of a holder: first what came while it waited, then from the queue.
///
/// Keys: queue, claims, arrivals, alive, holders. Arguments: holder, milliseconds to live, first number, most, bytes.
/// Answers with the jobs, numbered in their order.
pub(super) static FETCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('SADD', KEYS[5], ARGV[1])
  redis.call('SET', KEYS[4], '1', 'PX', ARGV[2])
end
local number, left, budget = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local taken, bytes = {}, 0
local chunk = 8
for _, from in ipairs({KEYS[3], KEYS[1]}) do
  while left > 0 and bytes < budget do
    local most = math.min(left, chunk)
    local jobs = redis.call('LRANGE', from, -most, -1)
    if #jobs == 0 then break end
    local pairs_ = {}
    for index = #jobs, 1, -1 do
      pairs_[#pairs_ + 1] = number
      pairs_[#pairs_ + 1] = jobs[index]
      taken[#taken + 1] = jobs[index]
      bytes = bytes + #jobs[index]
      number = number + 1
    end
    redis.call('HSET', KEYS[2], unpack(pairs_))
    redis.call('RPOP', from, #jobs)
    left = left - #jobs
    chunk = math.max(1, math.min(500, math.floor((budget - bytes) / (bytes / #taken))))
  end
end
return taken",
    )
});

/// Where a job goes that failed for the last time and is not to be kept.
pub(super) const DROPPED: &str = "dropped";

/// What a holder has in hand goes where it belongs; what it has not any more is passed over.
///
/// Keys: claims, queue. Arguments: now in seconds, day, oldest dead in seconds, most dead, how many are done, their numbers, then
/// for each other one where to (`queue`, `retry`, `schedule`, `dead`, `dropped`), number, due in seconds, job (to the queue
/// it goes as it is where this is empty).
pub(super) static SETTLE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local processed, failed = 0, 0
local done = tonumber(ARGV[5])
if done > 0 then processed = redis.call('HDEL', KEYS[1], unpack(ARGV, 6, 5 + done)) end
for at = 6 + done, #ARGV, 4 do
  local where, number = ARGV[at], ARGV[at + 1]
  local job = redis.call('HGET', KEYS[1], number)
  if job then
    if where == 'queue' then
      redis.call('RPUSH', KEYS[2], ARGV[at + 3] ~= '' and ARGV[at + 3] or job)
    else
      if where ~= 'dropped' then redis.call('ZADD', where, ARGV[at + 2], ARGV[at + 3]) end
      if where == 'dead' then
        redis.call('ZREMRANGEBYSCORE', 'dead', '-inf', ARGV[3])
        redis.call('ZREMRANGEBYRANK', 'dead', 0, -tonumber(ARGV[4]))
      end
      if where ~= 'schedule' then
        processed = processed + 1
        failed = failed + 1
      end
    end
    redis.call('HDEL', KEYS[1], number)
  end
end
for name, count in pairs({processed = processed, failed = failed}) do
  if count > 0 then
    local key = 'stat:' .. name
    redis.pcall('INCRBY', key, count)
    redis.pcall('INCRBY', key .. ':' .. ARGV[2], count)
    redis.pcall('EXPIRE', key .. ':' .. ARGV[2], 157680000)
  end
end",
    )
});

/// A sign of life. Answers with the holders of this queue that have let go of what they have, or have not been seen for
/// their time.
///
/// A holder that is known needs no memory for it: one that lives is not taken for dead because others filled it.
///
/// Keys: alive, holders. Arguments: holder, milliseconds to live, what the names of such keys begin with, whether those
/// that were not seen count.
pub(super) static BEAT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then redis.call('SADD', KEYS[2], ARGV[1]) end
if redis.call('PEXPIRE', KEYS[1], ARGV[2]) == 0 then redis.call('SET', KEYS[1], '1', 'PX', ARGV[2]) end
local gone = {}
for _, holder in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local seen = redis.call('GET', ARGV[3] .. holder)
  if seen == 'gone' or (not seen and ARGV[4] == '1') then gone[#gone + 1] = holder end
end
return gone",
    )
});

/// Takes over up to so many jobs of a holder that is gone, oldest first, and forgets it when nothing is left.
///
/// Keys: own claims, its claims, its arrivals, its alive, holders. Arguments: that holder, first number, most.
pub(super) static ADOPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if (redis.call('GET', KEYS[4]) or 'gone') ~= 'gone' then return {} end
local number, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local taken = {}
local old = redis.call('HKEYS', KEYS[2])
for index, name in ipairs(old) do old[index] = tonumber(name) end
table.sort(old)
for _, name in ipairs(old) do
  if #taken >= most then return taken end
  local job = redis.call('HGET', KEYS[2], name)
  redis.call('HSET', KEYS[1], number + #taken, job)
  redis.call('HDEL', KEYS[2], name)
  taken[#taken + 1] = job
end
while #taken < most do
  local job = redis.call('LINDEX', KEYS[3], -1)
  if not job then break end
  redis.call('HSET', KEYS[1], number + #taken, job)
  redis.call('RPOP', KEYS[3])
  taken[#taken + 1] = job
end
if redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 then
  redis.call('SREM', KEYS[5], ARGV[1])
  redis.call('DEL', KEYS[4])
end
return taken",
    )
});

/// What came while a holder waited, and what it does not want any more, goes back to where it would be consumed next.
///
/// Keys: arrivals, queue.
pub(super) static PUT_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
while true do
  local job = redis.call('LINDEX', KEYS[1], 0)
  if not job then return end
  redis.call('RPUSH', KEYS[2], job)
  redis.call('LPOP', KEYS[1])
end",
    )
});

/// A holder ends: it is forgotten, or what it has is there for others.
///
/// Keys: claims, arrivals, alive, holders. Arguments: holder, milliseconds to keep its word.
pub(super) static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 then
  redis.call('SREM', KEYS[4], ARGV[1])
  redis.call('DEL', KEYS[3])
else
  redis.call('SET', KEYS[3], 'gone', 'PX', ARGV[2])
end",
    )
});

/// Due jobs go to their queues.
///
/// Keys: `queues`. Arguments: for each one the set it is in, the job there, its queue, the job as it is pushed. Answers
/// with how many there still were.
pub(super) static ENQUEUE_DUE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local moved = 0
for at = 1, #ARGV, 4 do
  if redis.call('ZSCORE', ARGV[at], ARGV[at + 1]) then
    redis.call('SADD', KEYS[1], ARGV[at + 2])
    redis.call('LPUSH', 'queue:' .. ARGV[at + 2], ARGV[at + 3])
    redis.call('ZREM', ARGV[at], ARGV[at + 1])
    moved = moved + 1
  end
end
return moved",
    )
});

/// How many jobs of a queue are in somebody's hand.
///
/// Keys: holders. Arguments: what the names of claims begin with, and of arrivals.
pub(super) static IN_HAND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local sum = 0
for _, holder in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  sum = sum + redis.call('HLEN', ARGV[1] .. holder) + redis.call('LLEN', ARGV[2] .. holder)
end
return sum",
    )
});
