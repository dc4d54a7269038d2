import { describe, expect, it } from 'vitest';
import { DataTickets } from './data-ticket.js';

const tickets = new DataTickets('secret');
const snapshotId = 'snap-0123456789abcdef';
const sinceSnapshotId = 'snap-fedcba9876543210';

describe('DataTickets', () => {
  it.each([
    { access: 'read', snapshotId, expiresAt: 1000 },
    { access: 'read', snapshotId, sinceSnapshotId, expiresAt: 1000 },
    { access: 'write', snapshotId, expiresAt: 1000 },
  ] as const)('opens what it sealed until it is over: %j', (ticket) => {
    const text = tickets.seal(ticket);
    expect(text).toBe(encodeURIComponent(text));
    expect(tickets.open(text, 999)).toEqual(ticket);
    expect(tickets.open(text, 1000)).toBeUndefined();
  });

  it('opens nothing in which a character differs, and nothing of another secret', () => {
    const text = tickets.seal({ access: 'read', snapshotId, sinceSnapshotId, expiresAt: 1000 });
    for (let i = 0; i < text.length - 1; i += 1) {
      const other = text[i] === '0' ? '1' : '0';
      expect(tickets.open(text.slice(0, i) + other + text.slice(i + 1), 0), `at ${i}`).toBeUndefined();
    }
    expect(new DataTickets('other').open(text, 0)).toBeUndefined();
    for (const bad of ['', 'x', `${text}x`, text.slice(1)]) expect(tickets.open(bad, 0)).toBeUndefined();
  });
});
