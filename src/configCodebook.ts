/** @file Contradictions between the keys about codebooks and the others. */
import { type CodebookSettings, codebookBits, codebookNamed, hasBits } from './codebook/codebookForms.ts'
import { type AnalyzeConfig, isCalibrated, QUANTIZE_DEFAULTS, type QuantizeConfig } from './config.ts'
import { firstGiven, usualValues } from './configGiven.ts'
import { QtoolError } from './errors.ts'

/** Keys that mean nothing without method codebook. */
export const ABOUT_CODEBOOK = ['codebook', 'rowGroups', 'trellisWindow', 'mapping'] as const
/** Keys about what codebooks do not have. */
export const NOT_FOR_CODEBOOKS = ['symmetric'] as const

/**
 * Refuse what cannot be with codebooks, or without them.
 * @param config complete but for the allocation.
 * @param values what was given of it.
 * @throws QtoolError `usage`.
 */
export function checkCodebook(config: QuantizeConfig, values: Partial<QuantizeConfig>): void {
  const usual = usualValues(QUANTIZE_DEFAULTS, values)
  if (config.method !== 'codebook') {
    const key = firstGiven(ABOUT_CODEBOOK, values, usual)
    if (key === undefined) return
    throw new QtoolError('usage', `${key} is given without method codebook`, {
      hint: `${key} goes with --method codebook`,
    })
  }
  checkSettings(config)
  if (config.mapping !== 'descent' && !isCalibrated(config)) {
    throw new QtoolError('usage', `mapping ${config.mapping} is given without data`, {
      hint: '--mapping goes with --data or --stats',
    })
  }
  const other = firstGiven(NOT_FOR_CODEBOOKS, values, usual)
  if (other === undefined) return
  throw new QtoolError('usage', `${other} is given with method codebook`, {
    hint: 'tables of levels have no zero points: leave it out',
  })
}

/**
 * Refuse what cannot be where codebooks are measured.
 * @param key about codebooks that was given.
 * @throws QtoolError `usage`.
 */
export function checkMeasuredCodebook({ codebook, ...config }: AnalyzeConfig, key: string | undefined): void {
  if (codebook !== undefined) checkSettings({ ...config, codebook })
  else if (key !== undefined) {
    throw new QtoolError('usage', `${key} is given without a codebook`, {
      hint: `${key} goes with --codebook`,
    })
  }
}

/** What does not go with the codebook that is named. @throws QtoolError `usage`. */
function checkSettings(settings: CodebookSettings & Pick<QuantizeConfig, 'bits'>): void {
  const name = codebookNamed(settings)
  const { rowGroups, trellisWindow, mapping, bits } = settings
  if (rowGroups !== 'auto' && name !== 'jlcm') {
    throw new QtoolError('usage', `rowGroups is given with codebook ${name}`, {
      hint: '--row-groups goes with --codebook jlcm',
    })
  }
  if (trellisWindow !== 'auto' && name !== 'trellis') {
    throw new QtoolError('usage', `trellisWindow is given with codebook ${name}`, {
      hint: '--trellis-window goes with --codebook trellis',
    })
  }
  if (mapping !== 'descent' && name !== 'jlcm' && name !== 'lut') {
    throw new QtoolError('usage', `mapping ${mapping} is given with codebook ${name}`, {
      hint: '--mapping goes with --codebook jlcm or lut',
    })
  }
  if (bits !== undefined && !hasBits(name, bits)) {
    throw new QtoolError(
      'usage',
      `codebook ${name}: wanted a width of ${codebookBits(name).join(', ')} bits, found ${bits}`,
      {
        hint: 'give one of these, or another codebook or method',
      },
    )
  }
}
