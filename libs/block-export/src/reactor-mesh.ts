import { closeSync } from 'node:fs';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { check, EFD_NONBLOCK, native } from '@cairn/native';

/** Descriptors that a thread can wait for, one for each; the caller closes them. */
export const makeEventfds = (count: number): number[] => {
  const fds: number[] = [];
  try {
    while (fds.length < count) fds.push(check('eventfd', native.eventfd(EFD_NONBLOCK)));
    return fds;
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    throw error;
  }
};

/** A port from each reactor to each other one. */
export const meshOf = (count: number): (MessagePort | undefined)[][] => {
  const ports = Array.from({ length: count }, () =>
    Array.from({ length: count }, () => undefined as MessagePort | undefined),
  );
  for (let one = 0; one < count; one += 1) {
    for (let other = one + 1; other < count; other += 1) {
      const { port1, port2 } = new MessageChannel();
      ports[one]![other] = port1;
      ports[other]![one] = port2;
    }
  }
  return ports;
};
