/** `npm run demo`: set-up if needed, with what guests need, then the tour. Arguments go to `cairn demo`. */
import { say } from './lib/run.mjs';
import { main, runCairn, setUp } from './setup.mjs';

await main(async () => {
  const { guestProblem } = await setUp({ guest: 'wanted' });
  if (guestProblem) say(`no QEMU guest on this machine: ${guestProblem}`);
  return runCairn(['demo', ...(guestProblem ? ['--without-qemu'] : []), ...process.argv.slice(2)]);
});
