import { spawnSync } from 'node:child_process';
import { statfsSync } from 'node:fs';

const TMPFS_MAGIC = 0x0102_1994;

// cachestat(2), Linux 6.5: struct { u64 off, len } in; five u64 out, the second is the number of dirty pages, the
// third of those on their way to the disk. Perl is the one interpreter that every Debian has and that makes any call.
const SCRIPT = `
  open(my $file, '<', $ARGV[0]) or exit 2;
  my ($range, $stat) = (pack('QQ', 0, 0), "\\0" x 40);
  exit 3 if syscall(451, fileno($file), $range, $stat, 0) != 0;
  my @numbers = unpack('Q5', $stat);
  print $numbers[1] + $numbers[2];
`;

/** Pages of a file that are not on its disk yet; `undefined` where the kernel does not tell. */
export const dirtyPagesOf = (file: string): number | undefined => {
  // Memory that no disk backs is never marked dirty.
  if (statfsSync(file).type === TMPFS_MAGIC) return undefined;
  const { status, stdout } = spawnSync('perl', ['-e', SCRIPT, file], { encoding: 'utf8' });
  return status === 0 ? Number(stdout) : undefined;
};
