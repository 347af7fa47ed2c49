// What both files of operations share: TensorFlow's names, an error of arguments, and a table that may be written.

#ifndef EXAMPLES_WORD2VEC_WORD2VEC_TABLES_H_
#define EXAMPLES_WORD2VEC_WORD2VEC_TABLES_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace word2vec {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::tstring;
using tensorflow::Var;
using tensorflow::shape_inference::InferenceContext;

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// Makes a table one that may be written in place, float32 [words, d]; its variable is locked. Who has read it before
// keeps what it was.
inline absl::Status OwnTable(OpKernelContext* context, Var* variable) {
  if (!variable->is_initialized) return absl::FailedPreconditionError("w_in or w_out has no value yet");
  Tensor* tensor = variable->tensor();
  if (tensor->dtype() != tensorflow::DT_FLOAT || tensor->dims() != 2 || tensor->NumElements() == 0) {
    return Invalid("w_in and w_out are float32 [words, d], got ", tensorflow::DataTypeString(tensor->dtype()), " ",
                   tensor->shape().DebugString());
  }
  if (tensor->RefCountIsOne()) return absl::OkStatus();
  Tensor own;
  TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &own));
  own.flat<float>() = tensor->flat<float>();
  *tensor = own;
  return absl::OkStatus();
}

}  // namespace word2vec

#endif  // EXAMPLES_WORD2VEC_WORD2VEC_TABLES_H_
