from trainer import evaluate, train
from trainer.console import exit_program

exit_program(train.main(follow=evaluate.run))
