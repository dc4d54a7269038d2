import { ConfigurationError } from './configuration.js';

/** Steps at which a crash test may end a process, between two effects that a crash must not tear apart. */
export const faultPointNames = [
  'control-plane.after-commit-before-nudge',
  'worker.after-claim',
  'worker.after-placement',
  'worker.before-agent-call',
  'worker.after-agent-call',
  'worker.before-complete',
  'worker.after-complete',
  'data-plane.after-remember',
  'data-plane.before-answer',
  'predecessor.after-welcome',
  'predecessor.after-suspend',
  'predecessor.after-state',
  'predecessor.after-yours',
  'successor.after-welcome',
  'successor.after-adopt',
  'successor.after-ready',
  'successor.after-resume',
  'successor.before-done',
] as const;
/** Those of a process whose libraries name more of them come under their own prefix. */
export type FaultPointName = (typeof faultPointNames)[number] | `store.${string}`;

/** Called at each named step; does nothing unless that step was armed. */
export interface FaultPoints {
  reach(name: FaultPointName): void;
}

/** No step armed: what every process runs with outside crash tests. */
export const noFaultPoints: FaultPoints = { reach: () => undefined };

/**
 * Arms the step that `CAIRN_FAULT_POINT` names; reaching it calls `kill`, which should end the process
 * at once and without any clean-up (SIGKILL to itself). `further` are the steps that only this process has.
 *
 * Throws ConfigurationError for an unknown name, and whenever the variable is set with NODE_ENV=production.
 */
export function armFaultPoints(
  env: Readonly<Record<string, string | undefined>>,
  kill: () => void,
  further: readonly FaultPointName[] = [],
): FaultPoints {
  const armed = env['CAIRN_FAULT_POINT'];
  if (armed === undefined || armed === '') return noFaultPoints;
  const refuse = (message: string) => new ConfigurationError([{ name: 'CAIRN_FAULT_POINT', message }]);
  if (env['NODE_ENV'] === 'production') {
    throw refuse('is set with NODE_ENV=production; it kills the process on purpose, so unset it');
  }
  const names = [...faultPointNames, ...further];
  if (!names.some((name) => name === armed)) {
    throw refuse(`is ${JSON.stringify(armed)}; it must be one of ${names.join(', ')}`);
  }
  return {
    reach(name) {
      if (name === armed) kill();
    },
  };
}
