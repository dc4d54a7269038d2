import { connectionRules } from './broken-connection-rules.js';
import type { BrokenRule } from './broken-rule.js';
import { ringRules } from './broken-ring-rules.js';

// What a guest or its front-end may do wrong, one rule at a time, with the name under which that must be counted. The
// rest of what it does is right.

/** Every rule that the fuzzer breaks. */
export const brokenRules: readonly BrokenRule[] = [...ringRules, ...connectionRules];
