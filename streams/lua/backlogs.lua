-- How much is left to do in each stream, all at one moment.
-- KEYS streams, and behind them      ARGV[1] group, ARGV[2] how many of the first KEYS are not ours:
--      for each the counts of its            there the server's lag is wrong once the producer has
--      topic (hash)                          trimmed what was not read, so the entries are counted
--                                    ARGV[3] count at most so many
--                                    ARGV[4..] of each stream its partition
-- Returns {seconds, microseconds} of the server's clock, and for each stream {unread, pending,
-- oldest unread id, oldest pending id, last id, messages that are counted as not done}; false for an
-- id that there is none of.
local function pairs_of(flat)
  local about = {}
  for i = 1, #flat, 2 do
    about[flat[i]] = flat[i + 1]
  end
  return about
end

local function look(key, external)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then
    return {0, 0, false, false, false}
  end
  if kind ~= 'stream' then
    return {err = 'WRONGTYPE ' .. key .. ' holds a ' .. kind .. ', and no stream'}
  end
  local stream = pairs_of(redis.call('XINFO', 'STREAM', key))
  local last = stream['last-generated-id']
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local group = pairs_of(flat)
    if group.name == ARGV[1] then
      local delivered = group['last-delivered-id']
      local after = '(' .. delivered
      local oldest_unread, unread, oldest_pending = false, 0, false
      local next_one = {}
      if delivered ~= '18446744073709551615-18446744073709551615' then
        next_one = redis.call('XRANGE', key, after, '+', 'COUNT', 1)
      end
      if #next_one > 0 then
        oldest_unread = next_one[1][1]
        unread = group.lag
        local first = stream['first-entry']
        if first and oldest_unread == first[1] then
          unread = stream.length
        elseif external or not unread then
          unread = #redis.call('XRANGE', key, after, '+', 'COUNT', tonumber(ARGV[3]))
        end
      end
      if group.pending > 0 then
        oldest_pending = redis.call('XPENDING', key, ARGV[1])[2]
      end
      return {unread, group.pending, oldest_unread, oldest_pending, last}
    end
  end
  local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)
  return {stream.length, 0, #first > 0 and first[1][1] or false, false, last}
end

local found = {redis.call('TIME')}
local streams = #KEYS / 2
for i = 1, streams do
  local answer = look(KEYS[i], i <= tonumber(ARGV[2]))
  if answer.err then
    return answer
  end
  local partition = ARGV[3 + i]
  local counts = redis.call('HMGET', KEYS[streams + i], 'added:' .. partition, 'done:' .. partition)
  answer[6] = (counts[1] or 0) - (counts[2] or 0)
  found[i + 1] = answer
end
return found
