// What the node must remember of a volume across a restart, one JSON file a volume:
//
//   CAIRN_STATE_DIR/volumes/<volumeId>.json
//
// Fence and export are in one file, replaced atomically, so that a crash can never leave an export
// without the generation that fences it. A file that cannot be understood stops the start: a guess here
// would serve a volume to the wrong guest.
import { mkdir, readFile, readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { type ExportLimits, ObjectReader, readExportLimits } from '@cairn/agent';
import { isId, type AttachmentId, type VolumeId } from '@cairn/domain';
import { writeFileAtomic } from '@cairn/storage';
import { StartRefused } from '../start-refused.js';

/** The export a volume has, as it is re-opened at boot. */
export interface PersistedExport {
  readonly attachmentId: AttachmentId;
  readonly readOnly: boolean;
  readonly numQueues: number;
  /** Absent = as much as there is. */
  readonly limits?: ExportLimits;
}

/** Generations at or below `closedGeneration` are over; below `generation` they are stale. */
export interface VolumeState {
  readonly volumeId: VolumeId;
  readonly generation: number;
  readonly closedGeneration: number;
  readonly export?: PersistedExport;
  readonly deletedAt?: string;
}

const formatVersion = 1;
const fileSuffix = '.json';
const unfinishedMark = '.json.tmp-';

/** The remembered states of all volumes of the node: read once at boot, written through. */
export class VolumeStates {
  private constructor(
    private readonly directory: string,
    private readonly states: Map<VolumeId, VolumeState>,
  ) {}

  /** Reads every state file. Throws StartRefused for one that is torn, malformed or of another version. */
  static async open(stateDirectory: string): Promise<VolumeStates> {
    const directory = join(stateDirectory, 'volumes');
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const states = new Map<VolumeId, VolumeState>();
    for (const name of await readdir(directory)) {
      const volumeId = name.endsWith(fileSuffix) ? name.slice(0, -fileSuffix.length) : name;
      // What a crash left unfinished beside the whole file.
      if (name.includes(unfinishedMark)) await unlink(join(directory, name));
      if (!isId('vol', volumeId)) continue;
      states.set(volumeId, await readState(join(directory, name), volumeId));
    }
    return new VolumeStates(directory, states);
  }

  /** The state, or `undefined` for a volume that was never exported nor deleted here. */
  find(volumeId: VolumeId): VolumeState | undefined {
    return this.states.get(volumeId);
  }

  /** Every remembered state. */
  list(): VolumeState[] {
    return [...this.states.values()];
  }

  /** Those that have an export. */
  exported(): { state: VolumeState; persisted: PersistedExport }[] {
    return this.list().flatMap((state) =>
      state.export === undefined ? [] : [{ state, persisted: state.export }],
    );
  }

  /** Replaces the state; durable when it resolves, unchanged when it rejects. */
  async put(state: VolumeState): Promise<void> {
    await writeFileAtomic(
      this.pathOf(state.volumeId),
      `${JSON.stringify({ version: formatVersion, ...state })}\n`,
    );
    this.states.set(state.volumeId, state);
  }

  /** Forgets deleted volumes once no late call can still mean them. */
  async forgetDeletedBefore(instant: Date): Promise<void> {
    for (const { volumeId, deletedAt } of this.list()) {
      if (deletedAt === undefined || new Date(deletedAt) >= instant) continue;
      await unlink(this.pathOf(volumeId));
      this.states.delete(volumeId);
    }
  }

  private pathOf(volumeId: VolumeId): string {
    return join(this.directory, volumeId + fileSuffix);
  }
}

async function readState(path: string, volumeId: VolumeId): Promise<VolumeState> {
  const text = await readFile(path, 'utf8');
  const reader = ObjectReader.strict(parseJson(text));
  const version = reader.integer('version', { min: 1 });
  if (version !== formatVersion) {
    throw new StartRefused(
      `the state file ${path} is of version ${version}, and this release knows only ${formatVersion}`,
      'start the release of Cairn that wrote it, or a newer one',
    );
  }
  const state = readFields(reader);
  if (state.volumeId !== volumeId) reader.refuse('volumeId', 'is not the one the file is named after');
  if (state.closedGeneration > state.generation) reader.refuse('closedGeneration', 'is above generation');
  const faults = reader.finish();
  // Trusted from here: the file says exactly what this version writes.
  if (faults.length === 0) return state;
  throw malformed(path, faults.map(({ field, message }) => `${field} ${message}`).join('; '));
}

function readFields(reader: ObjectReader): VolumeState {
  const deletedAt = reader.optionalText(
    'deletedAt',
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/,
    'an instant in UTC',
  );
  const persisted = reader.optionalObject('export', readExport);
  return {
    volumeId: reader.id('volumeId', 'vol'),
    generation: reader.integer('generation', { min: 0 }),
    closedGeneration: reader.integer('closedGeneration', { min: 0 }),
    ...(persisted === undefined ? {} : { export: persisted }),
    ...(deletedAt === undefined ? {} : { deletedAt }),
  };
}

function readExport(reader: ObjectReader): PersistedExport {
  const limits = reader.optionalObject('limits', readExportLimits);
  return {
    attachmentId: reader.id('attachmentId', 'att'),
    readOnly: reader.flag('readOnly'),
    numQueues: reader.integer('numQueues', { min: 1, max: 65_535 }),
    ...(limits === undefined ? {} : { limits }),
  };
}

function malformed(path: string, why: string): StartRefused {
  return new StartRefused(
    `the state file ${path} is torn or malformed: ${why}`,
    'put the file back from a backup, or, once no guest uses the volume, move the file away and attach the volume again',
  );
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
