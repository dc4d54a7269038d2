import * as device from './device-verbs.js';
import * as memory from './memory-verbs.js';
import { REQUEST, type RequestCode } from './message-table.js';
import * as ring from './ring-verbs.js';
import type { Verb } from './verb.js';

/** What is done for each message that this back-end serves. */
export const verbs: Readonly<Record<RequestCode, Verb>> = {
  [REQUEST.GET_FEATURES]: device.getFeatures,
  [REQUEST.SET_FEATURES]: device.setFeatures,
  [REQUEST.SET_OWNER]: device.owner,
  [REQUEST.RESET_OWNER]: device.owner,
  [REQUEST.SET_MEM_TABLE]: memory.setMemTable,
  [REQUEST.SET_LOG_BASE]: memory.setLogBase,
  [REQUEST.SET_LOG_FD]: memory.setLogFd,
  [REQUEST.SET_VRING_NUM]: ring.setVringNum,
  [REQUEST.SET_VRING_ADDR]: ring.setVringAddr,
  [REQUEST.SET_VRING_BASE]: ring.setVringBase,
  [REQUEST.GET_VRING_BASE]: ring.getVringBase,
  [REQUEST.SET_VRING_KICK]: ring.setVringKick,
  [REQUEST.SET_VRING_CALL]: ring.setVringCall,
  [REQUEST.SET_VRING_ERR]: ring.setVringErr,
  [REQUEST.GET_PROTOCOL_FEATURES]: device.getProtocolFeatures,
  [REQUEST.SET_PROTOCOL_FEATURES]: device.setProtocolFeatures,
  [REQUEST.GET_QUEUE_NUM]: device.getQueueNum,
  [REQUEST.SET_VRING_ENABLE]: ring.setVringEnable,
  [REQUEST.SET_BACKEND_REQ_FD]: device.setBackendChannel,
  [REQUEST.GET_CONFIG]: device.getConfig,
  [REQUEST.SET_CONFIG]: device.setConfig,
  [REQUEST.GET_INFLIGHT_FD]: memory.getInflightFd,
  [REQUEST.SET_INFLIGHT_FD]: memory.setInflightFd,
  [REQUEST.RESET_DEVICE]: device.resetDevice,
  [REQUEST.GET_MAX_MEM_SLOTS]: memory.getMaxMemSlots,
  [REQUEST.ADD_MEM_REG]: memory.addMemReg,
  [REQUEST.REM_MEM_REG]: memory.remMemReg,
  [REQUEST.SET_STATUS]: device.setStatus,
  [REQUEST.GET_STATUS]: device.getStatus,
};
