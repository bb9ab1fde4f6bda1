-- Append entries of the same fields to one topic or to several, perhaps only while this worker reads
-- a certain partition.
-- KEYS[1] owners (hash: partition -> token)   ARGV[1] partition, ARGV[2] token of this worker;
-- KEYS[2..] the streams of each topic,          '' for none
--           as many of each                   ARGV[3] how many topics
--                                             ARGV[4] how many fields an entry has; their names;
--                                             then for each partition that gets any: which of them,
--                                             how many entries, and all their values
-- Returns 1; nothing is appended, and false returned, if another worker reads the partition.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return false
end
local call, argv, topics, width = redis.call, ARGV, tonumber(ARGV[3]), tonumber(ARGV[4])
local partitions = (#KEYS - 1) / topics
local entry = {'XADD', '', '*'}
for field = 1, width do
  entry[2 + 2 * field] = argv[4 + field]
end
local last = 3 + 2 * width
local at, stop = 5 + width, #argv
while at <= stop do
  local first = tonumber(argv[at]) + 1
  local behind = at + 2 + tonumber(argv[at + 1]) * width
  at = at + 2
  while at < behind do
    for field = 1, width do
      entry[3 + 2 * field] = argv[at + field - 1]
    end
    for topic = 0, topics - 1 do
      entry[2] = KEYS[first + topic * partitions]
      call(unpack(entry, 1, last))
    end
    at = at + width
  end
end
return 1
