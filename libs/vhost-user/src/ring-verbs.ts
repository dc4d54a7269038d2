import { type Exchange, closeIfThere } from './exchange.js';
import type { Serving, Verb } from './verb.js';
import { type RingFds, acceptEventfd } from './vring.js';

// One ring: where it lies, where it goes on, whom it signals, and whether it runs.

export const setVringNum: Verb = ({ frontEnd }, exchange) => {
  frontEnd.rings.setSize(exchange.message.u32(0), exchange.message.u32(4));
  exchange.acknowledge();
};

export const setVringAddr: Verb = (serving, exchange) => {
  const { vring, usedLogGpa, logMoved } = serving.frontEnd.rings.setAddresses(exchange.message);
  if (!logMoved) return exchange.acknowledge();
  serving.whileStopped(exchange, {
    change: () => {
      vring.usedLogGpa = usedLogGpa;
    },
  });
};

export const setVringBase: Verb = ({ frontEnd }, exchange) => {
  frontEnd.rings.setBase(exchange.message.u32(0), exchange.message.u32(4));
  exchange.acknowledge();
};

export const getVringBase: Verb = ({ frontEnd, wait }, exchange) => {
  const { rings } = frontEnd;
  const vring = rings.get(exchange.message.u32(0));
  wait((resume) =>
    rings.stop(vring, () => {
      vring.started = false;
      for (const which of ['kickFd', 'callFd'] as const) closeIfThere(vring.replaceFd(which, undefined));
      const payload = new Uint8Array(8);
      const view = new DataView(payload.buffer);
      view.setUint32(0, vring.index, true);
      view.setUint32(4, vring.nextAvail, true);
      resume(() => {
        exchange.reply(payload);
        // Not before: who does not know the answer needs the record.
        rings.settle(vring);
      });
    }),
  );
};

export const setVringKick: Verb = (serving, exchange) => setVringFd(serving, exchange, 'kickFd');
export const setVringCall: Verb = (serving, exchange) => setVringFd(serving, exchange, 'callFd');
export const setVringErr: Verb = (serving, exchange) => setVringFd(serving, exchange, 'errFd');

export const setVringEnable: Verb = ({ frontEnd, wait }, exchange) => {
  const { rings } = frontEnd;
  const vring = rings.get(exchange.message.u32(0));
  vring.enabled = exchange.message.u32(4) !== 0;
  if (vring.enabled) {
    rings.startIfReady(vring);
    return exchange.acknowledge();
  }
  wait((resume) => rings.stop(vring, () => resume(() => exchange.acknowledge())));
};

const setVringFd = ({ frontEnd, wait }: Serving, exchange: Exchange, which: keyof RingFds): void => {
  const { backend, rings } = frontEnd;
  const { index, fd } = exchange.message.vringFile();
  const vring = rings.get(index);
  if (fd !== undefined) acceptEventfd(fd);
  const before = vring.replaceFd(which, fd === undefined ? undefined : exchange.keep(fd));
  if (which === 'kickFd') vring.started = true;
  if (!vring.running) {
    closeIfThere(before);
    rings.startIfReady(vring);
    return exchange.acknowledge();
  }
  wait((resume) =>
    backend.setRingFds(index, vring.fds, () => {
      closeIfThere(before);
      resume(() => exchange.acknowledge());
    }),
  );
};
