/** @file What `codebook.ts` measures: models, widths, codebooks, grids beside them, and how much better than grids they must be. */
import type { QuantizeConfig } from '../src/config.ts'
import { MIXED_MODELS, type MixedModel } from './mixedModels.ts'

/** Grids have all widths that codebooks have. */
export type CodebookBits = 2 | 3 | 4

/** One way of quantizing all layers of a model. */
export interface CodebookArm {
  /** `trellis8`, `grid/128/yes`: group size and symmetric. */
  readonly name: string
  readonly bits: CodebookBits
  readonly isGrid: boolean
  readonly config: Partial<QuantizeConfig>
}

export interface CodebookModel extends Pick<MixedModel, 'name' | 'calibration' | 'batch'> {
  /** Loss of the best codebook of a width over that of the best grid of the same bytes, at most. */
  readonly limits: Readonly<Record<CodebookBits, number>>
}

const trellis = (trellisWindow: 8 | 12): Partial<QuantizeConfig> => ({ codebook: 'trellis', trellisWindow })
const jlcm = (rowGroups: 'auto' | number): Partial<QuantizeConfig> => ({ codebook: 'jlcm', rowGroups })

/** By name, in the order of the tables. */
const CODEBOOKS: Readonly<Record<string, Partial<QuantizeConfig>>> = {
  auto: { codebook: 'auto' },
  trellis8: trellis(8),
  trellis12: trellis(12),
  vq: { codebook: 'vq' },
  jlcm: jlcm('auto'),
  jlcm1: jlcm(1),
  jlcm4: jlcm(4),
  jlcm16: jlcm(16),
  lut: { codebook: 'lut' },
  nf4: { codebook: 'nf4' },
}

/** One table, more and more of them, one per row. */
export const ABLATION: readonly string[] = ['jlcm1', 'jlcm4', 'jlcm16', 'jlcm', 'lut']

/** The others have all widths. */
const WIDTHS: Readonly<Record<string, readonly CodebookBits[]>> = { vq: [2, 4], nf4: [4] }

export const CODEBOOK_BITS: readonly CodebookBits[] = [2, 3, 4]
const GROUP_SIZES = ['channel', 256, 128, 64, 32] as const
const SYMMETRIC = ['yes', 'no'] as const

/** Weights are judged alone: activations stay float. */
const WEIGHTS_ALONE: Partial<QuantizeConfig> = { accuracyLevel: 0, verify: false, force: true }

const codebookArms = (bits: CodebookBits): CodebookArm[] =>
  Object.entries(CODEBOOKS)
    .filter(([name]) => WIDTHS[name]?.includes(bits) ?? true)
    .map(([name, config]) => ({
      ...{ name, bits, isGrid: false },
      config: { ...WEIGHTS_ALONE, method: 'codebook', bits, groupSize: 'channel', ...config },
    }))

const gridArms = (bits: CodebookBits): CodebookArm[] =>
  GROUP_SIZES.flatMap((groupSize) =>
    SYMMETRIC.map((symmetric) => ({
      ...{ name: `grid/${groupSize}/${symmetric}`, bits, isGrid: true },
      config: { ...WEIGHTS_ALONE, method: 'gptq', bits, groupSize, symmetric },
    })),
  )

/** Of one width, codebooks first. */
export const armsOf = (bits: CodebookBits): CodebookArm[] => [...codebookArms(bits), ...gridArms(bits)]

const NOT_WORSE = { 2: 1, 3: 1, 4: 1 } as const
const LIMITS: Readonly<Record<string, CodebookModel['limits']>> = { 'lm-3m': { 2: 0.65, 3: 0.8, 4: 1 } }

const NAMES = ['lm-3m', 'stories260K', 'char-lstm', 'tiny-darknet', 'resnet20', 'PP-OCRv4 rec']

export const CODEBOOK_MODELS: readonly CodebookModel[] = NAMES.map((name) => {
  const found = MIXED_MODELS.find((model) => model.name === name)
  if (!found) throw new Error(`mixedModels.ts has no ${name}`)
  const { calibration, batch } = found
  return { name, calibration, batch, limits: LIMITS[name] ?? NOT_WORSE }
})

/**
 * Whether `--arms` names an arm: `trellis8`, `grid`, `grid/128`, `grid/128/yes`.
 * @param wanted all when undefined.
 */
export const isArmWanted = ({ name }: CodebookArm, wanted: readonly string[] | undefined): boolean =>
  wanted === undefined || wanted.some((word) => name === word || name.startsWith(`${word}/`))

/** @throws Error for an arm that is not known. */
export function readCodebookArms(text: string | undefined): readonly string[] | undefined {
  const words = text?.split(',')
  const arms = CODEBOOK_BITS.flatMap(armsOf)
  for (const word of words ?? []) {
    if (arms.some((arm) => isArmWanted(arm, [word]))) continue
    throw new Error(`--arms: ${word} is none of ${Object.keys(CODEBOOKS).join(', ')}, grid, grid/SIZE, grid/SIZE/yes`)
  }
  return words
}

/** @throws Error for a width that is not measured. */
export function readCodebookBits(text: string | undefined): readonly CodebookBits[] {
  if (text === undefined) return CODEBOOK_BITS
  return text.split(',').map((word) => {
    const bits = CODEBOOK_BITS.find((width) => String(width) === word)
    if (bits === undefined) throw new Error(`--bits: ${word} is none of ${CODEBOOK_BITS.join(', ')}`)
    return bits
  })
}
