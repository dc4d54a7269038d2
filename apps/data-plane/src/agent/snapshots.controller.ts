import { Body, Controller, Delete, Get, HttpCode, Param, Put, UseGuards } from '@nestjs/common';
import {
  parseCompleteWriting,
  parseSnapshotId,
  parseStartWriting,
  parseTakeSnapshots,
  type AgentSnapshot,
  type AgentWriting,
} from '@cairn/agent';
import { NodeSnapshots } from '../snapshots/node-snapshots.js';
import { SnapshotWriting } from '../snapshots/snapshot-writing.js';
import { TokenGuard } from './token.guard.js';

/** The verbs of snapshots. All are idempotent: the same id is the same snapshot. */
@Controller('v1/snapshots')
@UseGuards(TokenGuard)
export class SnapshotsController {
  constructor(
    private readonly snapshots: NodeSnapshots,
    private readonly writing: SnapshotWriting,
  ) {}

  @Get()
  list(): { snapshots: AgentSnapshot[]; broken: { id: string }[]; writing: AgentWriting[] } {
    return {
      snapshots: this.snapshots.list(),
      broken: this.snapshots.listBroken(),
      writing: this.writing.list(),
    };
  }

  @Put()
  async take(@Body() body: unknown): Promise<{ snapshots: AgentSnapshot[] }> {
    return { snapshots: await this.snapshots.take(parseTakeSnapshots(body)) };
  }

  @Put(':id/writing')
  async startWriting(@Param('id') id: string, @Body() body: unknown): Promise<object> {
    await this.writing.start(parseSnapshotId(id), parseStartWriting(body));
    return {};
  }

  @Put(':id/completion')
  async completeWriting(@Param('id') id: string, @Body() body: unknown): Promise<AgentSnapshot> {
    return this.writing.complete(parseSnapshotId(id), parseCompleteWriting(body));
  }

  @Delete(':id')
  @HttpCode(200)
  async delete(@Param('id') id: string): Promise<object> {
    await this.snapshots.delete(parseSnapshotId(id));
    return {};
  }
}
