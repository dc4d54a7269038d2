import { closeSync, unlinkSync } from 'node:fs';
import { check, native } from '@cairn/native';

const EADDRINUSE = 98;
const SOCKET_MODE = 0o600;

/** Descriptors in one message; the kernel takes 253 (SCM_MAX_FD), the addon 64. */
const AT_ONCE = 60;

/**
 * A way for descriptors between two processes, beside a channel on which the one tells the other how many it has sent.
 * Every method throws SystemError when the kernel refuses; `take` an Error when fewer have come.
 */
export class FdSocket {
  private constructor(private readonly fd: number) {}

  /** Waits at `path` for the one who is told of it; what a dead process left there is replaced. */
  static offer(path: string): { accept: () => FdSocket; close: () => void } {
    let listenFd = native.unixListen(path, 1, SOCKET_MODE);
    if (listenFd === -EADDRINUSE) {
      unlinkSync(path);
      listenFd = native.unixListen(path, 1, SOCKET_MODE);
    }
    check(`listen on ${path}`, listenFd);
    return {
      /** The connection that is there already. */
      accept: () => new FdSocket(check('accept', native.accept(listenFd))),
      close: () => {
        closeSync(listenFd);
        unlinkSync(path);
      },
    };
  }

  static connect(path: string): FdSocket {
    const socket = new FdSocket(check(`connect to ${path}`, native.unixConnect(path)));
    native.setNonblocking(socket.fd, 1);
    return socket;
  }

  /** The descriptors stay the caller's, too. */
  send(fds: readonly number[]): void {
    for (let at = 0; at < fds.length; at += AT_ONCE) {
      const some = Int32Array.from(fds.slice(at, at + AT_ONCE));
      check('send descriptors', native.send(this.fd, new Uint8Array(1), 0, 1, some, some.length));
    }
  }

  /** So many that have been sent; the caller owns them. */
  take(count: number): number[] {
    const fds: number[] = [];
    const received = new Int32Array(1 + AT_ONCE);
    try {
      while (fds.length < count) {
        const bytes = check(
          'receive descriptors',
          native.receive(this.fd, new Uint8Array(1), 0, 1, received),
        );
        fds.push(...received.subarray(1, 1 + received[0]!));
        if (bytes === 0 || fds.length > count)
          throw new Error(`${fds.length} descriptors have come, not ${count}`);
      }
      return fds;
    } catch (error) {
      for (const fd of fds) closeSync(fd);
      throw error;
    }
  }

  close(): void {
    closeSync(this.fd);
  }
}
