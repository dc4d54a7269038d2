/** What every verb does, one after the other: a crash test may end the process at each. Named `verb.what-was-done`. */
export const STEPS = [
  'create.layer-made',
  'create.volume-written',
  'delete.volume-removed',
  'collect.manifest-removed',
  'collect.file-removed',
  'snapshot.layer-made',
  'snapshot.pending-written',
  'snapshot.head-named',
  'snapshot.switched',
  'snapshot.completed-one',
  'snapshot.completed',
  'delete-snapshot.removed',
  'clone.layer-made',
  'clone.volume-written',
  'revert.layer-made',
  'revert.head-named',
  'grow.file-grown',
  'grow.layer-written',
  'grow.volume-written',
  'prune.child-flushed',
  'prune.punched',
  'fold.parent-cut',
  'fold.copied',
  'fold.flushed',
  'fold.child-written',
  'write-snapshot.layer-made',
  'write-snapshot.started',
  'write-snapshot.block-written',
  'write-snapshot.flushed',
  'write-snapshot.completed',
] as const;
export type Step = (typeof STEPS)[number];

/** Called at each step; what it returns is waited for. */
export type OnStep = (step: Step) => void | Promise<void>;
