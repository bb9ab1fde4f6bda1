-- Remove all that there is of a sink, unless a worker has it or something was sent meanwhile.
-- KEYS[1] members (hash: token -> description)     ARGV[1] the topic, ARGV[2] the sink
-- KEYS[2] topics (hash: topic -> partitions)       ARGV[3] how many streams there are in KEYS
-- KEYS[3] owners (hash: partition -> token)        ARGV[4...] their lengths, as they were seen,
-- KEYS[4] paused (hash: sink -> since when)        and then the tokens of workers that are dead
-- KEYS[5...] the streams, then all other keys
-- Returns nothing, or what stands in the way.
local topic, streams = ARGV[1], tonumber(ARGV[3])
local dead = {}
for i = 4 + streams, #ARGV do
  dead[ARGV[i]] = true
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
  if redis.call('XLEN', KEYS[4 + i]) ~= tonumber(ARGV[3 + i]) then
    return 'something was sent to the sink'
  end
end
redis.call('HDEL', KEYS[2], topic)
redis.call('HDEL', KEYS[4], ARGV[2])
for n = 0, streams - 1 do
  redis.call('HDEL', KEYS[3], topic .. ':' .. n)
end
for i = 5, #KEYS do
  redis.call('DEL', KEYS[i])
end
return false
