//! What Redis runs for us: each script is one step, nobody sees its middle.
//!
//! A key is a hash of a value `v` and a version `n`. The version is the server's time in microseconds, or one more than
//! the last: it never comes again, also over a deletion, and over a server that has lost its last writes.

use std::sync::LazyLock;

use redis::Script;

/// Gives the next version. The first key is where the last one is kept.
const GROW: &str = "
local function grow()
    local now = redis.call('TIME')
    local last = tonumber(redis.call('GET', KEYS[1]) or '0')
    local version = string.format('%.0f', math.max(now[1] * 1000000 + now[2], last + 1))
    redis.call('SET', KEYS[1], version)
    return version
end
";

/// Keys, then nothing: for each the value, the version and the milliseconds left (−1: for ever), or nothing.
pub(super) static GET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local entries = {}
for at, key in ipairs(KEYS) do
    local entry = redis.call('HMGET', key, 'v', 'n')
    if entry[1] and entry[2] then
        entries[at] = {entry[1], entry[2], redis.call('PTTL', key)}
    else
        entries[at] = false
    end
end
return entries
",
    )
});

/// The version's key and a key for each write; four arguments for each: `set` or `delete`, the value, the milliseconds
/// to live or nothing, and the version, `absent` or nothing as the condition. For each a word and the version.
pub(super) static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{GROW}
local function write(key, what, value, ttl, condition)
    local found = redis.call('HGET', key, 'n')
    if condition == 'absent' and found then return {{'present', found}} end
    if condition ~= 'absent' and condition ~= '' and condition ~= found then
        return {{found and 'changed' or 'gone', '0'}}
    end
    if what == 'delete' then
        if not found then return {{'done', redis.call('GET', KEYS[1]) or '0'}} end
        redis.call('DEL', key)
        return {{'done', grow()}}
    end
    local version = grow()
    redis.call('HSET', key, 'v', value, 'n', version)
    if ttl ~= '' then redis.call('PEXPIRE', key, ttl) elseif found then redis.call('PERSIST', key) end
    return {{'done', version}}
end
local answers = {{}}
for at = 2, #KEYS do
    local first = (at - 2) * 4
    local kind = redis.call('TYPE', KEYS[at])['ok']
    if kind ~= 'hash' and kind ~= 'none' then
        answers[at - 1] = {{'foreign', '0'}}
    else
        answers[at - 1] = write(KEYS[at], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3], ARGV[first + 4])
    end
end
return answers
"
    ))
});

/// The version's key and the key; what to add, and the milliseconds to live or nothing. A word and the sum.
pub(super) static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{GROW}
local answer = redis.pcall('HINCRBY', KEYS[2], 'v', ARGV[1])
if type(answer) == 'table' and answer.err then
    if string.find(answer.err, 'overflow', 1, true) then return {{'overflow', '0'}} end
    if string.find(answer.err, 'not an integer', 1, true) then return {{'text', '0'}} end
    return answer
end
redis.call('HSET', KEYS[2], 'n', grow())
if ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
-- A number of Lua has 53 bits.
return {{'done', redis.call('HGET', KEYS[2], 'v')}}
"
    ))
});
