-- Remove all that there is of a sink, unless a worker has it or something was sent meanwhile.
-- KEYS[1] members (hash: token -> description)     ARGV[1] the topic, ARGV[2] the sink
-- KEYS[2] topics (hash: topic -> partitions)       ARGV[3] now, to be noted; '': only if it is
-- KEYS[3] owners (hash: partition -> token)        noted already, so that it was retired before
-- KEYS[4] paused (hash: sink -> since when)        ARGV[4] how many streams there are in KEYS
-- KEYS[5] retired (hash: sink -> since when)       ARGV[5...] their lengths, as they were seen,
-- KEYS[6...] the streams, then all other keys      and then the tokens of workers that are dead
-- Returns nothing, or what stands in the way.
local topic, streams = ARGV[1], tonumber(ARGV[4])
local dead = {}
for i = 5 + streams, #ARGV do
  dead[ARGV[i]] = true
end
if ARGV[3] == '' and redis.call('HEXISTS', KEYS[5], ARGV[2]) == 0 then
  return 'the sink has been added anew'
end
local members = redis.call('HGETALL', KEYS[1])
for i = 1, #members, 2 do
  local said = members[i + 1]
  -- One that has just started does not say yet what it can read.
  local has_it = string.find(said, '"' .. topic .. ':', 1, true)
    or string.find(said, '"readable":[]', 1, true)
  if has_it and not dead[members[i]] then
    return 'a worker has started that has the sink, or may have it'
  end
end
for i = 1, streams do
  if redis.call('XLEN', KEYS[5 + i]) ~= tonumber(ARGV[4 + i]) then
    return 'something was sent to the sink'
  end
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[5], ARGV[2], ARGV[3])
end
redis.call('HDEL', KEYS[2], topic)
redis.call('HDEL', KEYS[4], ARGV[2])
for n = 0, streams - 1 do
  redis.call('HDEL', KEYS[3], topic .. ':' .. n)
end
for i = 6, #KEYS do
  redis.call('DEL', KEYS[i])
end
return false
