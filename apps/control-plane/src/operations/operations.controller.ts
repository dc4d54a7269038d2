import type { OperationId, ProjectId } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { Controller, Get, Param } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiTags } from '@nestjs/swagger';
import { Caller, IdPipe } from '../http/params.js';
import { NeedsApiKey } from '../http/responses.js';
import { OperationDto, toOperationDto } from './operation.dto.js';

/** Operations: what became of a 202. */
@ApiTags('operations')
@Controller('v1/operations')
export class OperationsController {
  constructor(private readonly unitOfWork: UnitOfWork) {}

  /** One operation. */
  @Get(':operationId')
  @ApiOperation({
    summary: 'Get an operation',
    description: 'Poll it until its state is succeeded or failed.',
  })
  @ApiOkResponse({ type: OperationDto })
  @NeedsApiKey('operation-not-found')
  async get(
    @Caller() project: ProjectId,
    @Param('operationId', new IdPipe('op')) id: OperationId,
  ): Promise<OperationDto> {
    return toOperationDto(await this.unitOfWork.read(({ operations }) => operations.get(project, id)));
  }
}
