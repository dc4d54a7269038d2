/** `npm start`: set-up if needed, then the whole service on this machine. Arguments go to `cairn up`. */
import { main, runCairn, setUp } from './setup.mjs';

await main(async () => {
  await setUp();
  return runCairn(['up', ...process.argv.slice(2)]);
});
