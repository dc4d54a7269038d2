/** For each state, the events it accepts and where they lead. A pair that is not listed is illegal. */
export type TransitionTable<S extends string, E extends string> = Readonly<
  Record<S, Readonly<Partial<Record<E, S>>>>
>;

/** Where the event leads from this state, or `undefined` when the pair is illegal. */
export function next<S extends string, E extends string>(
  table: TransitionTable<S, E>,
  state: S,
  event: E,
): S | undefined {
  return table[state][event];
}

/** The states that accept the event, in table order: the `allowedStates` of a refusal. */
export function statesAllowing<S extends string, E extends string>(
  table: TransitionTable<S, E>,
  event: E,
): S[] {
  return statesOf(table).filter((state) => table[state][event] !== undefined);
}

/** Every state of the table. */
export function statesOf<S extends string, E extends string>(table: TransitionTable<S, E>): S[] {
  // Object.keys forgets the key type; the table is a literal whose keys are exactly S.
  return Object.keys(table) as S[];
}

/** True when nothing leads out of the state. */
export function isTerminal<S extends string, E extends string>(
  table: TransitionTable<S, E>,
  state: S,
): boolean {
  return Object.keys(table[state]).length === 0;
}
