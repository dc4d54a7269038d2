import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { scratchDirectory, type BackEnd, type BackEndOptions, type StartBackEnd } from './back-end.js';

/** A running back-end over fresh sparse files. */
export interface ServedDisks {
  backEnd: BackEnd;
  sockets: string[];
  files: string[];
  /** The bytes of a file now. */
  content(index?: number): Buffer;
  /** Starts the back-end again over the same files, after it was stopped or killed. */
  restart(): Promise<void>;
  /** Stops the back-end and removes the files. */
  close(): Promise<void>;
}

/** Makes sparse files and serves them. */
export const serveDisks = async (
  start: StartBackEnd,
  options: Omit<BackEndOptions, 'disks'> & {
    sizeBytes: number;
    count?: number;
    /** Makes the files in a directory of its own below this one; default: the system's for temporary files. */
    below?: string;
    prepare?: (file: string) => void;
  },
): Promise<ServedDisks> => {
  const { sizeBytes, count = 1, below, prepare, ...rest } = options;
  const directory = scratchDirectory(below);
  const disks = Array.from({ length: count }, (_, i) => ({
    file: join(directory.path, `disk-${i}.img`),
    socket: join(directory.path, `disk-${i}.sock`),
  }));
  for (const { file } of disks) {
    const fd = openSync(file, 'wx', 0o600);
    ftruncateSync(fd, sizeBytes);
    closeSync(fd);
    prepare?.(file);
  }
  const served: ServedDisks = {
    backEnd: await start({ disks, ...rest }),
    sockets: disks.map(({ socket }) => socket),
    files: disks.map(({ file }) => file),
    content: (index = 0) => readFileSync(disks[index]!.file),
    restart: async () => {
      served.backEnd = await start({ disks, ...rest });
    },
    close: async () => {
      await served.backEnd.kill();
      directory.remove();
    },
  };
  return served;
};
