import { AgentError, type ExportLimits } from '@cairn/agent';
import { isLimited, rateLimitsOf } from '@cairn/block-export';

/** The limits that somebody asked for, whole; `undefined` when they limit nothing. Throws `invalid-argument`. */
export function limitsOf(given: Partial<ExportLimits>): ExportLimits | undefined {
  try {
    const limits = rateLimitsOf(given);
    return isLimited(limits) ? limits : undefined;
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new AgentError('invalid-argument', message, { errors: [{ field: 'limits', message }] }, { cause });
  }
}
