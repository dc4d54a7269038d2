/** A file of an archive; `mode` holds the permission bits only. */
export interface CpioFile {
  path: string;
  mode: number;
  content: Buffer;
}

const directoryType = 0o040000;
const regularType = 0o100000;
const symlinkType = 0o120000;

/**
 * Writes an archive in the "newc" cpio format, which is what Linux unpacks as its initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst).
 *
 * Parent directories are added by themselves, each once and before its content.
 */
export class CpioArchive {
  private readonly parts: Buffer[] = [];
  private readonly directories = new Set<string>();
  private inode = 1;

  /** Adds a regular file; a leading `/` of the path is dropped. */
  addFile({ path, mode, content }: CpioFile): void {
    const name = relative(path);
    this.addParents(name);
    this.addEntry(name, regularType | mode, content);
  }

  /** Adds a symbolic link. */
  addLink(path: string, target: string): void {
    const name = relative(path);
    this.addParents(name);
    this.addEntry(name, symlinkType | 0o777, Buffer.from(target));
  }

  /** Adds a directory and those above it, unless they are there. */
  addDirectory(path: string): void {
    const name = relative(path);
    if (this.directories.has(name)) return;
    this.addParents(name);
    this.directories.add(name);
    this.addEntry(name, directoryType | 0o755, Buffer.alloc(0));
  }

  /** The finished archive; nothing may be added afterwards. */
  finish(): Buffer {
    this.addEntry('TRAILER!!!', 0, Buffer.alloc(0));
    return Buffer.concat(this.parts);
  }

  private addParents(name: string): void {
    const slash = name.lastIndexOf('/');
    if (slash > 0) this.addDirectory(name.slice(0, slash));
  }

  private addEntry(name: string, mode: number, content: Buffer): void {
    const nameSize = Buffer.byteLength(name) + 1;
    // ino, mode, uid, gid, nlink, mtime, filesize, dev and rdev major/minor, namesize, check
    const fields = [this.inode++, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, nameSize, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    this.parts.push(padded(Buffer.from(`${header}${name}\0`)), padded(content));
  }
}

/** Header with name, and content, are each filled up to a multiple of four bytes. */
function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}

function relative(path: string): string {
  return path.replace(/^\/+|\/+$/g, '');
}
