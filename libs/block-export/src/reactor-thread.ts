import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { native } from '@cairn/native';
import { VhostUserError } from '@cairn/vhost-user';
import { Export } from './export.js';
import { ReactorLoop } from './reactor-loop.js';
import type { AnswerMessage, CommandMessage, ReactorCommand, ReactorStart } from './reactor-protocol.js';

// Entry of a reactor thread. It lives in `loop.run()` and hears commands through an eventfd that the loop watches.

const port = parentPort!;
const start = workerData as ReactorStart;
const loop = new ReactorLoop(start.pollMicros);
const exports = new Map<string, Export>();

type Answer = (more?: Partial<AnswerMessage>) => void;

const obey = (command: ReactorCommand, answer: Answer): void => {
  switch (command.kind) {
    case 'add': {
      const found = exports.get(command.spec.id);
      // One that is on its way out serves nobody: the new one takes its place when it is gone.
      if (found?.closing) return found.close(() => attempt(command, answer));
      if (!found) exports.set(command.spec.id, new Export(loop, command.spec));
      return answer();
    }
    case 'remove': {
      const found = exports.get(command.id);
      if (!found) return answer();
      return found.close(() => {
        exports.delete(command.id);
        answer();
      });
    }
    case 'resize': {
      const found = exports.get(command.id);
      if (!found) throw new Error(`there is no export ${command.id}`);
      found.resize(command.sizeBytes);
      return answer();
    }
    case 'status':
      return answer({ statuses: [...exports.values()].map((one) => one.status()) });
    case 'stop': {
      let left = exports.size;
      const end = (): void => {
        answer();
        loop.stop();
      };
      if (left === 0) return end();
      for (const [id, one] of exports) {
        one.close(() => {
          exports.delete(id);
          left -= 1;
          if (left === 0) end();
        });
      }
      return undefined;
    }
  }
};

const attempt = (command: ReactorCommand, answer: Answer): void => {
  try {
    obey(command, answer);
  } catch (error) {
    answer({ error: error instanceof Error ? error.message : String(error) });
  }
};

const onControl = (): void => {
  native.consume(start.controlFd);
  for (let next = receiveMessageOnPort(port); next; next = receiveMessageOnPort(port)) {
    const { sequence, command } = next.message as CommandMessage;
    attempt(command, (more = {}) => port.postMessage({ sequence, ...more }));
  }
};

loop.onMemoryFault = (): void => {
  for (const one of exports.values()) one.dropIfMemoryFaulted(() => new VhostUserError('memory-truncated'));
};
loop.watch(start.controlFd, onControl);
port.postMessage({ sequence: 0 });
loop.run();
port.close();
