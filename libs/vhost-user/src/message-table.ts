import { MAX_CONFIG_BYTES, MAX_REGIONS, PROTOCOL_FEATURE } from './messages.js';

/** What a front-end's message must look like before anything in it is believed (vhost-user spec, "Message types"). */
export interface MessageRule {
  name: string;
  /** Least and greatest payload, in bytes. */
  payload: readonly [number, number];
  /** Greatest number of descriptors. */
  fds: number;
  /** Answers by itself; else REPLY_ACK may ask for an answer. */
  replies?: true;
  /** Bit of the protocol feature that must have been negotiated. */
  needs?: number;
}

const rule = (
  name: string,
  payload: number | readonly [number, number],
  more: Partial<MessageRule> = {},
): MessageRule => ({
  name,
  payload: typeof payload === 'number' ? [payload, payload] : payload,
  fds: 0,
  ...more,
});

/** Codes of the messages that this back-end serves. */
export const REQUEST = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
} as const;

export type RequestCode = (typeof REQUEST)[keyof typeof REQUEST];

/** Code of the one message that this back-end sends by itself: the configuration space has changed. */
export const BACKEND_CONFIG_CHANGE = 2;

const CONFIG_PAYLOAD = [12, 12 + MAX_CONFIG_BYTES] as const;

/** A code that is not listed is refused. */
export const messageTable: Readonly<Record<RequestCode, MessageRule>> = {
  [REQUEST.GET_FEATURES]: rule('GET_FEATURES', 0, { replies: true }),
  [REQUEST.SET_FEATURES]: rule('SET_FEATURES', 8),
  [REQUEST.SET_OWNER]: rule('SET_OWNER', 0),
  [REQUEST.RESET_OWNER]: rule('RESET_OWNER', 0),
  [REQUEST.SET_MEM_TABLE]: rule('SET_MEM_TABLE', [8, 8 + MAX_REGIONS * 32], { fds: MAX_REGIONS }),
  [REQUEST.SET_LOG_BASE]: rule('SET_LOG_BASE', 16, {
    fds: 1,
    replies: true,
    needs: PROTOCOL_FEATURE.LOG_SHMFD,
  }),
  [REQUEST.SET_LOG_FD]: rule('SET_LOG_FD', [0, 8], { fds: 1, needs: PROTOCOL_FEATURE.LOG_SHMFD }),
  [REQUEST.SET_VRING_NUM]: rule('SET_VRING_NUM', 8),
  [REQUEST.SET_VRING_ADDR]: rule('SET_VRING_ADDR', 40),
  [REQUEST.SET_VRING_BASE]: rule('SET_VRING_BASE', 8),
  [REQUEST.GET_VRING_BASE]: rule('GET_VRING_BASE', 8, { replies: true }),
  [REQUEST.SET_VRING_KICK]: rule('SET_VRING_KICK', 8, { fds: 1 }),
  [REQUEST.SET_VRING_CALL]: rule('SET_VRING_CALL', 8, { fds: 1 }),
  [REQUEST.SET_VRING_ERR]: rule('SET_VRING_ERR', 8, { fds: 1 }),
  [REQUEST.GET_PROTOCOL_FEATURES]: rule('GET_PROTOCOL_FEATURES', 0, { replies: true }),
  [REQUEST.SET_PROTOCOL_FEATURES]: rule('SET_PROTOCOL_FEATURES', 8),
  [REQUEST.GET_QUEUE_NUM]: rule('GET_QUEUE_NUM', 0, { replies: true, needs: PROTOCOL_FEATURE.MQ }),
  [REQUEST.SET_VRING_ENABLE]: rule('SET_VRING_ENABLE', 8),
  [REQUEST.SET_BACKEND_REQ_FD]: rule('SET_BACKEND_REQ_FD', [0, 8], {
    fds: 1,
    needs: PROTOCOL_FEATURE.BACKEND_REQ,
  }),
  [REQUEST.GET_CONFIG]: rule('GET_CONFIG', CONFIG_PAYLOAD, { replies: true, needs: PROTOCOL_FEATURE.CONFIG }),
  [REQUEST.SET_CONFIG]: rule('SET_CONFIG', CONFIG_PAYLOAD, { needs: PROTOCOL_FEATURE.CONFIG }),
  // 20 bytes on the wire; QEMU's own struct is padded to 24.
  [REQUEST.GET_INFLIGHT_FD]: rule('GET_INFLIGHT_FD', [20, 24], {
    replies: true,
    needs: PROTOCOL_FEATURE.INFLIGHT_SHMFD,
  }),
  [REQUEST.SET_INFLIGHT_FD]: rule('SET_INFLIGHT_FD', [20, 24], {
    fds: 1,
    needs: PROTOCOL_FEATURE.INFLIGHT_SHMFD,
  }),
  [REQUEST.RESET_DEVICE]: rule('RESET_DEVICE', 0, { needs: PROTOCOL_FEATURE.RESET_DEVICE }),
  [REQUEST.GET_MAX_MEM_SLOTS]: rule('GET_MAX_MEM_SLOTS', 0, {
    replies: true,
    needs: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS,
  }),
  [REQUEST.ADD_MEM_REG]: rule('ADD_MEM_REG', 40, { fds: 1, needs: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS }),
  // QEMU before 8.0 sends a descriptor along, which means nothing.
  [REQUEST.REM_MEM_REG]: rule('REM_MEM_REG', 40, { fds: 1, needs: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS }),
  [REQUEST.SET_STATUS]: rule('SET_STATUS', 8, { needs: PROTOCOL_FEATURE.STATUS }),
  [REQUEST.GET_STATUS]: rule('GET_STATUS', 0, { replies: true, needs: PROTOCOL_FEATURE.STATUS }),
};
