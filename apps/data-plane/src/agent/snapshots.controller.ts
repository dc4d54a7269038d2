import { Body, Controller, Delete, Get, HttpCode, Param, Put, UseGuards } from '@nestjs/common';
import { parseSnapshotId, parseTakeSnapshots, type AgentSnapshot } from '@cairn/agent';
import { NodeSnapshots } from '../snapshots/node-snapshots.js';
import { TokenGuard } from './token.guard.js';

/** The verbs of snapshots. All are idempotent: the same id is the same snapshot. */
@Controller('v1/snapshots')
@UseGuards(TokenGuard)
export class SnapshotsController {
  constructor(private readonly snapshots: NodeSnapshots) {}

  @Get()
  list(): { snapshots: AgentSnapshot[]; broken: { id: string }[] } {
    return { snapshots: this.snapshots.list(), broken: this.snapshots.listBroken() };
  }

  @Put()
  async take(@Body() body: unknown): Promise<{ snapshots: AgentSnapshot[] }> {
    return { snapshots: await this.snapshots.take(parseTakeSnapshots(body)) };
  }

  @Delete(':id')
  @HttpCode(200)
  async delete(@Param('id') id: string): Promise<object> {
    await this.snapshots.delete(parseSnapshotId(id));
    return {};
  }
}
