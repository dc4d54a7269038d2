import type { Exchange } from './exchange.js';
import type { FrontEnd } from './front-end.js';

/** Something that may only be done while no ring runs. */
export interface StoppedChange {
  change: () => void;
  /** Not before requests of a front-end that is gone have ended, too. */
  alone?: boolean;
  /** Runs at the end in any case, also when the session closed meanwhile and `change` did not run. */
  settled?: () => void;
  /** The answer; an acknowledgement unless said otherwise. */
  answer?: () => void;
}

/** What a verb works with: the front-end, and the time that the session gives it. */
export interface Serving {
  readonly frontEnd: FrontEnd;
  /** Hears no further message until `resume` is called; what `resume` runs may break the protocol's rules, too. */
  readonly wait: (begin: (resume: (then: () => void) => void) => void) => void;
  /** Stops every ring, makes the change, starts them again and answers. */
  readonly whileStopped: (exchange: Exchange, change: StoppedChange) => void;
}

/** Does what one kind of message asks for. Throws VhostUserError when it must not be asked. */
export type Verb = (serving: Serving, exchange: Exchange) => void;
