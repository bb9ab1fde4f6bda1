-- Append entries, if this worker still reads the partition that they follow from.
-- KEYS[1] owners (hash: partition -> token)        ARGV[1] partition, ARGV[2] token of this worker
-- KEYS[2..] streams                                ARGV[3..] for each entry: which of the streams,
--                                                            how many parts it has, and these
-- Returns the ids of the entries; nothing is appended, and false returned, if another one reads it.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return false
end
local ids, at = {}, 3
while at <= #ARGV do
  local key, parts = KEYS[tonumber(ARGV[at]) + 1], tonumber(ARGV[at + 1])
  ids[#ids + 1] = redis.call('XADD', key, '*', unpack(ARGV, at + 2, at + 1 + parts))
  at = at + 2 + parts
end
return ids
