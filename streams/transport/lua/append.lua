-- Append entries of the same fields, perhaps only while this worker reads a certain partition.
-- KEYS[1] owners (hash: partition -> token)   ARGV[1] partition, ARGV[2] token of this worker;
-- KEYS[2..] streams                             '' for none: then the answer has the ids
--                                             ARGV[3] how many fields an entry has; their names;
--                                             then for each stream that gets any: which of the
--                                             streams, how many entries, and all their values
-- Returns the ids of the entries or, where a partition is named, 1; nothing is appended, and
-- false returned, if another worker reads it.
local held = ARGV[1] ~= ''
if held and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return false
end
local call, argv, width = redis.call, ARGV, tonumber(ARGV[3])
local entry = {'XADD', '', '*'}
for field = 1, width do
  entry[2 + 2 * field] = argv[3 + field]
end
local last = 3 + 2 * width
local ids, at, stop = {}, 4 + width, #argv
while at <= stop do
  entry[2] = KEYS[tonumber(argv[at]) + 1]
  local behind = at + 2 + tonumber(argv[at + 1]) * width
  at = at + 2
  while at < behind do
    for field = 1, width do
      entry[3 + 2 * field] = argv[at + field - 1]
    end
    local id = call(unpack(entry, 1, last))
    if not held then
      ids[#ids + 1] = id
    end
    at = at + width
  end
end
return held and 1 or ids
