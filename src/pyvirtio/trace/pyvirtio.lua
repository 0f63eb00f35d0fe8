-- Lets Wireshark and tshark read the messages (USER0) and ring events (USER1) of a recording that
-- `pyvirtio trace FILE --pcapng OUT` wrote: wireshark -X lua_script:pyvirtio.lua OUT
-- The layouts are those of pcapng.py, which is beside this file.

local SIDES = { [0] = "driver", [1] = "device", [2] = "recorder" }

local message = Proto("virtio_msg", "vhost-user message")
local FRONT_END = {
  [1] = "GET_FEATURES", [2] = "SET_FEATURES", [3] = "SET_OWNER", [4] = "RESET_OWNER", [5] = "SET_MEM_TABLE",
  [6] = "SET_LOG_BASE", [7] = "SET_LOG_FD", [8] = "SET_VRING_NUM", [9] = "SET_VRING_ADDR", [10] = "SET_VRING_BASE",
  [11] = "GET_VRING_BASE", [12] = "SET_VRING_KICK", [13] = "SET_VRING_CALL", [14] = "SET_VRING_ERR",
  [15] = "GET_PROTOCOL_FEATURES", [16] = "SET_PROTOCOL_FEATURES", [17] = "GET_QUEUE_NUM", [18] = "SET_VRING_ENABLE",
  [19] = "SEND_RARP", [20] = "NET_SET_MTU", [21] = "SET_BACKEND_REQ_FD", [22] = "IOTLB_MSG",
  [23] = "SET_VRING_ENDIAN", [24] = "GET_CONFIG", [25] = "SET_CONFIG", [26] = "CREATE_CRYPTO_SESSION",
  [27] = "CLOSE_CRYPTO_SESSION", [28] = "POSTCOPY_ADVISE", [29] = "POSTCOPY_LISTEN", [30] = "POSTCOPY_END",
  [31] = "GET_INFLIGHT_FD", [32] = "SET_INFLIGHT_FD", [33] = "GPU_SET_SOCKET", [34] = "RESET_DEVICE",
  [35] = "VRING_KICK", [36] = "GET_MAX_MEM_SLOTS", [37] = "ADD_MEM_REG", [38] = "REM_MEM_REG", [39] = "SET_STATUS",
  [40] = "GET_STATUS", [41] = "GET_SHARED_OBJECT", [42] = "SET_DEVICE_STATE_FD", [43] = "CHECK_DEVICE_STATE",
}
local BACK_END = {
  [1] = "IOTLB_MSG", [2] = "CONFIG_CHANGE_MSG", [3] = "VRING_HOST_NOTIFIER_MSG", [4] = "VRING_CALL",
  [5] = "VRING_ERR", [6] = "SHARED_OBJECT_ADD", [7] = "SHARED_OBJECT_REMOVE", [8] = "SHARED_OBJECT_LOOKUP",
}
local m = {
  side = ProtoField.uint8("virtio_msg.side", "By", base.DEC, SIDES),
  channel = ProtoField.bool("virtio_msg.channel", "On the back-end's own channel"),
  fds = ProtoField.uint8("virtio_msg.fds", "File descriptors"),
  request = ProtoField.uint32("virtio_msg.request", "Request"),
  name = ProtoField.string("virtio_msg.name", "Name"),
  reply = ProtoField.bool("virtio_msg.reply", "Reply"),
  need_reply = ProtoField.bool("virtio_msg.need_reply", "Asks for a reply"),
  size = ProtoField.uint32("virtio_msg.size", "Bytes of payload"),
  number = ProtoField.uint64("virtio_msg.number", "Number", base.HEX),
  payload = ProtoField.bytes("virtio_msg.payload", "Payload"),
}
message.fields = { m.side, m.channel, m.fds, m.request, m.name, m.reply, m.need_reply, m.size, m.number, m.payload }

function message.dissector(buffer, packet, tree)
  if buffer:len() < 16 or buffer(0, 1):uint() ~= 1 then return 0 end
  local channel = buffer(2, 1):uint() ~= 0
  local request = buffer(4, 4):le_uint()
  local flags = buffer(8, 4):le_uint()
  local is_reply = bit.band(flags, 4) ~= 0
  local name = (channel and BACK_END or FRONT_END)[request] or ("message " .. request)
  local by = buffer(1, 1):uint() == 1 and "back-end" or "front-end"
  packet.cols.protocol = "vhost-user"
  packet.cols.info = by .. (is_reply and " answers " or ": ") .. name
  local root = tree:add(message, buffer(), "vhost-user " .. name)
  root:add(m.side, buffer(1, 1))
  root:add(m.channel, buffer(2, 1))
  root:add(m.fds, buffer(3, 1))
  root:add_le(m.request, buffer(4, 4))
  root:add(m.name, buffer(4, 4), name)
  root:add(m.reply, buffer(8, 4), is_reply)
  root:add(m.need_reply, buffer(8, 4), bit.band(flags, 8) ~= 0)
  root:add_le(m.size, buffer(12, 4))
  if buffer:len() == 24 then root:add_le(m.number, buffer(16, 8)) end
  if buffer:len() > 16 then root:add(m.payload, buffer(16)) end
  return buffer:len()
end

local ring = Proto("virtio_ring", "virtqueue event")
local CODES = {
  [1] = "queue", [2] = "descriptors", [3] = "available", [4] = "kick", [5] = "pop", [6] = "used", [7] = "used_index",
  [8] = "interrupt", [9] = "reap", [10] = "suppression", [11] = "stopped", [12] = "error", [13] = "damaged",
  [14] = "missed",
}
local SAID = {
  [1] = "sets up the queue", [2] = "writes the descriptors of request", [3] = "stores available index",
  [4] = "kicks", [5] = "pops request", [6] = "answers request", [7] = "stores used index", [8] = "interrupts",
  [9] = "takes the answer to request", [10] = "changes when it is notified", [11] = "stops at available index",
  [12] = "signals that the queue is broken", [13] = "DAMAGED", [14] = "requests went by unseen",
}
local r = {
  event = ProtoField.uint8("virtio_ring.event", "Event", base.DEC, CODES),
  side = ProtoField.uint16("virtio_ring.side", "By", base.DEC, SIDES),
  queue = ProtoField.uint16("virtio_ring.queue", "Queue"),
  head = ProtoField.uint16("virtio_ring.head", "Head"),
  number = ProtoField.uint32("virtio_ring.number", "Index or bytes"),
  count = ProtoField.uint16("virtio_ring.descriptors", "Descriptors"),
  index = ProtoField.uint16("virtio_ring.descriptor.index", "Index"),
  address = ProtoField.uint64("virtio_ring.descriptor.address", "Address", base.HEX),
  length = ProtoField.uint32("virtio_ring.descriptor.length", "Length"),
  flags = ProtoField.uint16("virtio_ring.descriptor.flags", "Flags", base.HEX),
  next = ProtoField.uint16("virtio_ring.descriptor.next", "Next"),
  data = ProtoField.bytes("virtio_ring.data", "Data"),
  error = ProtoField.string("virtio_ring.error", "Error"),
}
ring.fields = { r.event, r.side, r.queue, r.head, r.number, r.count, r.index, r.address, r.length, r.flags, r.next,
  r.data, r.error }

function ring.dissector(buffer, packet, tree)
  if buffer:len() < 16 or buffer(0, 1):uint() ~= 1 then return 0 end
  local code = buffer(1, 1):uint()
  local head = buffer(6, 2):le_uint()
  local info = (SIDES[buffer(2, 2):le_uint()] or "?") .. " " .. (SAID[code] or "?")
  if head ~= 0xffff then info = info .. " " .. head end
  if code == 3 or code == 7 or code == 11 or code == 14 then info = info .. " " .. buffer(8, 4):le_uint() end
  packet.cols.protocol = "virtqueue"
  packet.cols.info = "queue " .. buffer(4, 2):le_uint() .. ": " .. info
  local root = tree:add(ring, buffer(), "virtqueue " .. (CODES[code] or "event"))
  root:add(r.event, buffer(1, 1))
  root:add_le(r.side, buffer(2, 2))
  root:add_le(r.queue, buffer(4, 2))
  if head ~= 0xffff then root:add_le(r.head, buffer(6, 2)) end
  root:add_le(r.number, buffer(8, 4))
  root:add_le(r.count, buffer(12, 2))
  local at = 16
  for _ = 1, buffer(12, 2):le_uint() do
    if at + 18 > buffer:len() then break end
    local one = root:add(buffer(at, 18), "Descriptor " .. buffer(at, 2):le_uint())
    one:add_le(r.index, buffer(at, 2))
    one:add_le(r.address, buffer(at + 2, 8))
    one:add_le(r.length, buffer(at + 10, 4))
    one:add_le(r.flags, buffer(at + 14, 2))
    one:add_le(r.next, buffer(at + 16, 2))
    at = at + 18
  end
  if at < buffer:len() then root:add(code == 13 and r.error or r.data, buffer(at)) end
  return buffer:len()
end

local encapsulations = DissectorTable.get("wtap_encap")
encapsulations:add(wtap.USER0, message)
encapsulations:add(wtap.USER1, ring)
